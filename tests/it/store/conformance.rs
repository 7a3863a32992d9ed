//! Every public method of the store, on every engine. The cases lie in the files beside this one, one for each topic.

use std::collections::BTreeSet;
use std::path::Path;

use super::{admin, attempts, deliveries, fixture, queue, ranks, reports, results, runs, watches, work};

macro_rules! suite {
    ($($topic:ident: $($case:ident),+;)+) => {
        mod sqlite {
            $(mod $topic {
                $(#[tokio::test]
                async fn $case() {
                    let at = super::super::fixture::sqlite().await;
                    super::super::$topic::$case(&at).await;
                    at.store.close().await;
                })+
            })+
        }

        /// The same cases on Postgres, each in a database of its own on one server.
        #[tokio::test]
        async fn postgres() {
            let server = super::postgres::Server::start();
            $($(
                let at = super::postgres::direct(&server, stringify!($case)).await;
                $topic::$case(&at).await;
                at.store.close().await;
            )+)+
            assert_eq!(server.idle_in_transaction().await, 0);
            println!("FIGURE store_engine name=postgres cases={CASES} failed=0");
        }

        /// And once more behind a pooler that gives each transaction another connection.
        #[tokio::test]
        async fn postgres_behind_pgbouncer() {
            let server = super::postgres::Server::start();
            let pooler = super::postgres::Pooler::before(&server);
            $($(
                let at = super::postgres::pooled(&server, &pooler, stringify!($case)).await;
                $topic::$case(&at).await;
                at.store.close().await;
            )+)+
            assert_eq!(server.idle_in_transaction().await, 0);
            println!("FIGURE store_engine name=pgbouncer cases={CASES} failed=0");
        }

        /// SQLite, Postgres, Postgres behind pgbouncer.
        const ENGINES: usize = 3;

        /// How many cases the suite has.
        const CASES: usize = [$($(stringify!($case)),+),+].len();
    };
}

suite! {
    deliveries:
        a_delivery_is_stored_once, content_counts_as_the_same_for_a_while, a_large_body_comes_back_whole, deliveries_are_found_by_either_id,
        one_commit_decides_a_delivery, a_replayed_delivery_is_looked_at_again, repositories_and_pulls_are_as_last_seen;
    work:
        asking_again_looks_once_more, a_lease_is_lost_to_the_next_holder, outcomes_decide_what_comes_next,
        waiting_is_not_failing, a_machine_has_work_of_its_own, one_sender_keeps_its_term, open_runs_are_asked_for_at_once,
        daemons_know_of_each_other,
        a_parked_delivery_says_so, a_hint_wakes_a_waiter;
    runs:
        a_change_is_applied_once, an_illegal_move_writes_nothing, an_ended_run_never_changes, a_run_is_asked_to_stop_once,
        a_held_run_is_released_for_its_sha, runs_are_found, runs_are_listed_in_pages;
    attempts:
        ready_steps_are_placed_once, a_late_move_keeps_the_state, an_ended_attempt_frees_its_place,
        a_lost_lease_places_nothing, a_group_has_one_run_at_a_time;
    watches:
        a_watched_place_keeps_what_is_known, earlier_generations_are_found;
    queue:
        what_was_used_counts, the_default_branch_names_the_class, an_equal_step_is_taken_over, a_run_is_run_again,
        the_first_writer_of_a_cache_wins, a_wait_is_told_while_nothing_works;
    reports:
        the_bootstrap_belongs_to_its_first_agent, a_log_has_no_gap_and_no_repeat, points_are_stored_once, last_values_are_kept_beside_the_points,
        artifacts_and_outputs_stay, nothing_is_taken_from_an_ended_attempt, only_the_last_attempt_counts;
    ranks:
        an_attempt_runs_when_all_of_its_ranks_do, the_last_rank_ends_a_wait, a_rank_speaks_for_itself, a_rank_ends_once_and_its_attempt_later;
    admin:
        blobs_without_a_row_are_collected, a_restore_is_remembered;
    results:
        a_comparison_is_final_once, open_pulls_that_any_run_of_a_branch_concerns_are_found, comparisons_follow_their_question, the_outbox_converges, a_stream_of_changes_is_sent, a_session_ends_with_its_token,
        tokens_are_known_by_hash, what_is_old_is_deleted, the_installation_keeps_its_facts, a_closed_store_says_so;
}

/// A method without a case would be a text that one of the engines never saw.
#[test]
fn every_method_has_its_case() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |dir: &str| -> String {
        let mut text = String::new();
        for entry in std::fs::read_dir(root.join(dir)).unwrap() {
            text += &std::fs::read_to_string(entry.unwrap().path()).unwrap();
        }
        text
    };
    let methods: BTreeSet<String> = read("src/store")
        .split("pub async fn ")
        .skip(1)
        .map(|rest| rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect())
        .collect();
    let cases = read("tests/it/store");
    let missing: Vec<&String> = methods
        .iter()
        .filter(|name| !cases.contains(&format!(".{name}(")) && !cases.contains(&format!("::{name}(")))
        .collect();
    println!(
        "FIGURE store methods={} engines={ENGINES} cases={CASES} without_case={}",
        methods.len(),
        missing.len()
    );
    assert!(missing.is_empty(), "no case calls {missing:?}");
}
