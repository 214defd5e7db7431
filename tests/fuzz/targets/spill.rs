//! Inputs for `bolthole_tests::fuzz::spill`.
#![no_main]

bolthole_fuzz::target!(spill);
