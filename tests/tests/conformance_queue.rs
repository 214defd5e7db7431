//! The message queue: the conformance suite in memory and on RabbitMQ, with queues of both kinds.

use bolthole_broker::queue::MemoryBroker;
use bolthole_tests::conformance::queue::{self as suite, Backend};
use bolthole_tests::servers;

macro_rules! conformance {
    ($($test:ident),+ $(,)?) => {
        mod memory {
            use super::*;

            $(#[tokio::test]
            async fn $test() -> anyhow::Result<()> {
                suite::$test(&Backend::Memory(MemoryBroker::new())).await
            })+
        }

        mod rabbitmq {
            use super::*;

            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() -> anyhow::Result<()> {
                suite::$test(&Backend::RabbitMq(servers::shared().rabbit.url())).await
            })+
        }

        mod quorum {
            use super::*;

            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() -> anyhow::Result<()> {
                let url = servers::shared().rabbit.url() + "?queues=quorum";
                suite::$test(&Backend::RabbitMq(url)).await
            })+
        }
    };
}

conformance!(
    publish_consume_ack,
    prefetch_limits_unsettled,
    dropped_consumer_gives_back,
    given_back_returns,
    lanes_are_fifo,
    lanes_are_separate,
    full_lane_leaves_other_open,
    pausing_lo,
    consumers_share,
    delayed_arrives_later,
    control_reaches_all,
    stale_tags_are_refused,
    missing_queue_is_made_again,
    dead_letters_are_kept,
    stopped_consumer_still_settles,
    namespaces_are_apart,
    oversize_is_refused,
    purge_takes_everything,
    absence_is_told,
);
