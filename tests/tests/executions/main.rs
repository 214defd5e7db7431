//! Executions that broke earlier drafts of the protocol. Each is a short history in which some draft
//! lost a task, committed twice, mixed values, freed too early, leaked or hung. Those about the store
//! are played in memory and on Redis, those about workers on a worker, or on the part of one that
//! decides them; 7a and 12 go on in `worker/src/core/tests.rs`, where decisions are tested.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should fail")]

mod again;
mod ends;
mod fleet;
mod little;
mod staging;
mod tasks;
mod workers;

use bolthole_broker::store::{Memory, Redis, Store};
use bolthole_tests::servers;

async fn redis() -> Store {
    let url = servers::shared_redis().url();
    Store::Redis(Redis::connect(&url, &servers::namespace()).await.unwrap())
}

macro_rules! on_both_stores {
    ($($module:ident::$test:ident),+ $(,)?) => {
        mod memory {
            use super::*;

            $(#[tokio::test]
            async fn $test() {
                $module::$test(&Store::Memory(Memory::new())).await.unwrap();
            })+
        }

        mod redis {
            use super::*;

            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                $module::$test(&super::redis().await).await.unwrap();
            })+
        }
    };
}

on_both_stores!(
    staging::columns_are_not_rewritten_after_activation,
    staging::a_silent_client_is_noticed_and_its_run_closed,
    staging::a_handle_that_is_dropped_frees_its_result,
    staging::a_late_edge_keeps_its_input,
    staging::an_input_that_has_failed_refuses_no_segment,
    staging::an_input_may_finish_between_two_slices,
    staging::other_content_is_no_duplicate,
    staging::a_twin_submits_its_tasks_in_vain,
    tasks::a_recomputed_consumer_does_not_free_what_another_needs,
    tasks::a_recomputation_keeps_the_pin,
    tasks::the_result_of_an_effect_outlives_its_consumers,
    tasks::skipped_consumers_count_down,
    tasks::a_failure_reaches_all_behind_it_step_by_step,
    tasks::what_is_leased_or_waits_for_its_time_is_not_rung_for,
    tasks::a_failed_attempt_is_counted_without_its_message,
    tasks::the_first_commit_names_the_result,
    tasks::a_redelivered_task_under_a_lease_is_another_s,
    tasks::many_successors_of_one_commit,
    tasks::two_commits_of_one_worker_have_an_entry_each,
    again::a_lost_result_of_many_inputs,
    again::what_ran_ahead_of_its_message_is_not_lost_with_its_worker,
    ends::a_late_duplicate_computes_nothing_again,
    ends::a_commit_to_a_purged_run_leaves_nothing,
    ends::whoever_counts_last_starts_retention,
    ends::a_blob_of_two_runs_outlives_the_first,
    ends::what_a_task_hands_on_is_kept_until_it_has,
);
