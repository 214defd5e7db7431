//! Inputs for `bolthole_tests::fuzz::chunk`.
#![no_main]

bolthole_fuzz::target!(chunk);
