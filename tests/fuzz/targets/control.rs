//! Inputs for `bolthole_tests::fuzz::control`.
#![no_main]

bolthole_fuzz::target!(control);
