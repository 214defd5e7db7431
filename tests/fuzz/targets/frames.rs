//! Inputs for `bolthole_tests::fuzz::frames`.
#![no_main]

bolthole_fuzz::target!(frames);
