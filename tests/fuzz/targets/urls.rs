//! Inputs for `bolthole_tests::fuzz::urls`.
#![no_main]

bolthole_fuzz::target!(urls);
