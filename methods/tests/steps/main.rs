//! What a step and an epoch of a method change, and what they leave alone: teachers, prototypes, labels, heads.

mod bench;
mod clusters;
mod learning;
mod prototypes;
mod ranks;
mod teachers;
