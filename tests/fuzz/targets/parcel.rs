//! Inputs for `bolthole_tests::fuzz::parcel`.
#![no_main]

bolthole_fuzz::target!(parcel);
