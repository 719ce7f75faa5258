//! What must hold of the objectives beside the formula that their oracles write out: identities, invariances, values
//! computed by hand, equalities between losses, and the same bits on any number of ranks.

mod all_pairs;
mod assignment;
mod clusters;
mod common;
mod memory;
mod neighbours;
mod queues;
mod regression;
mod relic;
mod state;
mod temperature;
mod weighted;
