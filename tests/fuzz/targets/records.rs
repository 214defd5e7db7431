//! Inputs for `bolthole_tests::fuzz::records`.
#![no_main]

bolthole_fuzz::target!(records);
