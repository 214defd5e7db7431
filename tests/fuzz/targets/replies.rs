//! Inputs for `bolthole_tests::fuzz::replies`.
#![no_main]

bolthole_fuzz::target!(replies);
