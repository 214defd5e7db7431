//! Inputs for `bolthole_tests::fuzz::argument`.
#![no_main]

bolthole_fuzz::target!(argument);
