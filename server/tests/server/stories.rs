//! Every key of the configuration has a test that it does what it says: which one.
//!
//! A key without a line here, or a line whose test is gone, fails.

use snowcache_server::config::names;
use std::collections::BTreeMap;
use std::path::Path;

/// The key, the file of its test below the folder of this crate, the test.
const STORIES: &[(&str, &str, &str)] = &[
    ("listen", OPERATING, "several_sockets_are_one_server"),
    (
        "data",
        "tests/server/front_door.rs",
        "two_servers_never_share_a_folder",
    ),
    (
        "public_url",
        "src/banner.rs",
        "behind_a_proxy_its_own_url_is_printed",
    ),
    (
        "read_only",
        OPERATING,
        "a_read_only_cache_serves_and_changes_nothing",
    ),
    (
        "cache.priority",
        "tests/server/front_door.rs",
        "the_cache_says_what_it_is",
    ),
    (
        "cache.want_mass_query",
        LIMITS,
        "mass_queries_may_be_declined",
    ),
    (
        "cache.public",
        "tests/server/identity.rs",
        "a_private_cache_tells_nothing_to_who_has_no_token",
    ),
    (
        "cache.key_name",
        PROCESS,
        "the_first_key_is_called_as_configured",
    ),
    (
        "cache.upstream_keys",
        "tests/server/upstreams.rs",
        "what_an_upstream_signed_need_not_be_here",
    ),
    (
        "auth.allow_plaintext_writes",
        "src/auth.rs",
        "plain_tcp_from_elsewhere_is_refused_unless_allowed",
    ),
    (
        "auth.issuers_file",
        "tests/process.rs",
        "check_config_and_the_start_look_at_the_issuers",
    ),
    (
        "http.max_connections",
        LIMITS,
        "beyond_so_many_connections_the_next_one_waits",
    ),
    (
        "http.max_head_bytes",
        LIMITS,
        "a_head_that_is_too_large_is_refused",
    ),
    (
        "http.header_timeout_s",
        LIMITS,
        "a_head_that_does_not_come_is_not_waited_for",
    ),
    (
        "http.write_timeout_s",
        LIMITS,
        "an_answer_that_nobody_takes_is_given_up",
    ),
    (
        "http.drain_delay_s",
        OPERATING,
        "while_it_drains_requests_are_served_and_sent_elsewhere",
    ),
    (
        "http.shutdown_grace_s",
        OPERATING,
        "a_download_under_way_ends_and_one_that_does_not_is_cut_off_after_the_grace",
    ),
    (
        "http.unix_socket_mode",
        OPERATING,
        "several_sockets_are_one_server",
    ),
    (
        "tls.certificate_file",
        ENCRYPTED,
        "a_cache_with_a_certificate_is_private_and_says_so",
    ),
    (
        "tls.key_file",
        ENCRYPTED,
        "a_start_without_a_certificate_that_can_be_used_says_why",
    ),
    (
        "tls.reload_interval_s",
        ENCRYPTED,
        "a_new_certificate_is_taken_and_one_that_cannot_be_used_is_not",
    ),
    (
        "tls.handshake_timeout_s",
        ENCRYPTED,
        "a_client_that_agrees_on_nothing_loses_its_connection",
    ),
    (
        "uploads.max_at_once",
        LIMITS,
        "beyond_so_many_uploads_the_next_one_waits_and_is_sent_away",
    ),
    (
        "uploads.wait_s",
        LIMITS,
        "beyond_so_many_uploads_the_next_one_waits_and_is_sent_away",
    ),
    (
        "uploads.stall_timeout_s",
        "tests/server/hostile.rs",
        "an_upload_that_stalls_or_breaks_off_leaves_nothing",
    ),
    (
        "uploads.lease_s",
        "tests/server/keeping.rs",
        "a_collection_tells_what_goes_and_why_and_a_dry_run_only_tells",
    ),
    (
        "uploads.max_leased_bytes",
        LIMITS,
        "a_token_holds_only_so_much_without_narinfos",
    ),
    (
        "uploads.max_nar_size_bytes",
        "tests/server/hostile.rs",
        "a_nar_over_the_limit_is_refused_before_it_is_taken_in",
    ),
    (
        "uploads.max_expansion",
        LIMITS,
        "what_unpacks_to_too_many_times_its_size_is_refused",
    ),
    (
        "uploads.decoder_memory_bytes",
        LIMITS,
        "a_decoder_gets_only_so_much_memory",
    ),
    (
        "uploads.max_narinfo_bytes",
        LIMITS,
        "small_files_have_limits_of_their_own",
    ),
    (
        "uploads.max_log_bytes",
        LIMITS,
        "small_files_have_limits_of_their_own",
    ),
    (
        "uploads.max_listing_bytes",
        LIMITS,
        "small_files_have_limits_of_their_own",
    ),
    ("reads.max_at_once", LIMITS, "readers_get_so_many_places"),
    (
        "reads.narinfo_cache_bytes",
        "tests/server/remembered.rs",
        "memory_for_narinfos_is_bounded_and_may_be_none",
    ),
    ("depot.zstd_level", LIMITS, "a_higher_level_packs_smaller"),
    (
        "depot.max_size_bytes",
        "tests/server/keeping.rs",
        "a_full_cache_answers_507_reads_on_and_collects",
    ),
    ("depot.reserve_bytes", LIMITS, "the_reserve_is_left_free"),
    (
        "depot.patch_bytes",
        "tests/server/deltas.rs",
        "patches_take_no_more_than_they_may",
    ),
    (
        "retention.grace_s",
        "tests/server/keeping.rs",
        "a_collection_tells_what_goes_and_why_and_a_dry_run_only_tells",
    ),
    (
        "retention.max_age_s",
        "tests/server/keeping.rs",
        "a_collection_tells_what_goes_and_why_and_a_dry_run_only_tells",
    ),
    (
        "retention.sweep_grace_s",
        "tests/server/keeping.rs",
        "a_collection_tells_what_goes_and_why_and_a_dry_run_only_tells",
    ),
    (
        "retention.max_garbage_percent",
        LIMITS,
        "segments_are_rewritten_when_they_hold_too_much_garbage",
    ),
    (
        "retention.gc_interval_s",
        "tests/server/keeping.rs",
        "by_the_clock_what_nobody_asks_for_goes",
    ),
    (
        "recompression.interval_s",
        "tests/server/recompressing.rs",
        "recompressions_run_by_themselves_when_an_interval_is_set",
    ),
    (
        "recompression.level",
        "src/recompressor.rs",
        "it_does_as_configured",
    ),
    (
        "recompression.min_idle_s",
        "tests/server/recompressing.rs",
        "only_what_nobody_asks_for_is_compressed_again",
    ),
    (
        "recompression.rate_bytes_per_s",
        "src/recompressor.rs",
        "it_does_as_configured",
    ),
    (
        "scrub.interval_s",
        LIMITS,
        "scrubs_run_by_themselves_when_an_interval_is_set",
    ),
    (
        "scrub.rate_bytes_per_s",
        "src/scrubber.rs",
        "what_is_scrubbed_by_itself_is_a_slice_at_the_configured_rate",
    ),
    (
        "log.format",
        PROCESS,
        "the_log_is_text_or_json_and_says_what_it_is_asked_for",
    ),
    (
        "log.filter",
        PROCESS,
        "the_log_is_text_or_json_and_says_what_it_is_asked_for",
    ),
    (
        "metrics.enabled",
        OPERATING,
        "figures_may_have_a_socket_of_their_own_or_none",
    ),
    (
        "metrics.listen",
        OPERATING,
        "figures_may_have_a_socket_of_their_own_or_none",
    ),
];

const ENCRYPTED: &str = "tests/server/encrypted.rs";
const LIMITS: &str = "tests/server/limits.rs";
const OPERATING: &str = "tests/server/operating.rs";
const PROCESS: &str = "tests/process.rs";

#[test]
fn every_key_has_its_story() {
    let stories: BTreeMap<&str, _> = STORIES.iter().map(|(key, ..)| (*key, ())).collect();
    assert_eq!(stories.len(), STORIES.len(), "a key has two lines");
    for (key, _) in names::keys() {
        assert!(stories.contains_key(key.as_str()), "no story proves {key}");
    }
    let keys: Vec<String> = names::keys().into_iter().map(|(key, _)| key).collect();
    for (key, file, test) in STORIES {
        assert!(
            keys.iter().any(|known| known == key),
            "there is no key {key}"
        );
        let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file));
        let text = text.unwrap_or_else(|error| panic!("{file}: {error}"));
        let is_there = text
            .split("#[test]\n")
            .skip(1)
            .any(|it| it.trim_start().starts_with(&format!("fn {test}(")));
        assert!(is_there, "{key}: {file} has no test {test}");
    }
}
