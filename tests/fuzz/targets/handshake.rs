//! Inputs for `bolthole_tests::fuzz::handshake`.
#![no_main]

bolthole_fuzz::target!(handshake);
