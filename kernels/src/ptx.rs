//! tmp
pub const SM_80: &str = "";
pub const FRESH: bool = true;
