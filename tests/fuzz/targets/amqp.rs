//! Inputs for `bolthole_tests::fuzz::amqp`.
#![no_main]

bolthole_fuzz::target!(amqp);
