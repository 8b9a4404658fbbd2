//! What is run for an activation is bounded: in time, in what it says, and in what it leaves behind.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use eci_agent::deploy::{HookError, Launch, Output, hook_environment, run_hook};
use eci_agent::failure::Failure;
use eci_agent::oci::{Digest, Platform};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::common::service::eventually;

/// Long enough for everything that is to end by itself.
const LONG: Duration = Duration::from_secs(120);

async fn sh(script: &str, timeout: Duration) -> Result<Output, HookError> {
    let argv = ["/bin/sh", "-c", script].map(str::to_owned);
    run_hook(&argv, &[], timeout).await
}

/// Waits until a process has ended, whether somebody has reaped it or not.
async fn until_gone(pid: &str) {
    let stat = format!("/proc/{}/stat", pid.trim());
    let has_ended = move || match std::fs::read_to_string(&stat) {
        // The state comes after the name, which is in brackets (proc_pid_stat(5)).
        Ok(stat) => stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['Z', 'X'])).then_some(()),
        Err(_) => Some(()),
    };
    assert!(pid.trim().parse::<u32>().is_ok(), "{pid:?} is no process");
    tokio::task::spawn_blocking(|| eventually("it has ended", has_ended)).await.unwrap();
}

#[tokio::test]
async fn a_hook_is_told_what_it_is_run_for_and_nothing_else() {
    let launch = Launch {
        workload: "router".parse().unwrap(),
        generation: 7,
        reference: "registry.example.com/edge/router:1.4.2".parse().unwrap(),
        digest: Digest::of(b"manifest"),
        index_digest: None,
        platform: Platform::host(),
        cmdline: None,
        disks: eci_agent::desired::Disks::ReadOnly,
        files: Vec::new(),
        record: None,
    };
    let (dir, previous) = (Path::new("/var/lib/eci-agent/generations/router/7"), Path::new("/previous/6"));
    let environment = hook_environment("pre_activate", &launch, dir, Some(previous));
    let output = run_hook(&["/usr/bin/env".to_owned()], &environment, LONG).await.unwrap();
    let told: BTreeMap<_, _> = output.text().lines().filter_map(|line| line.split_once('=')).collect();
    let path = std::env::var("PATH").unwrap();
    let digest = Digest::of(b"manifest").to_string();
    let expected = BTreeMap::from([
        ("PATH", path.as_str()),
        ("ECI_HOOK", "pre_activate"),
        ("ECI_WORKLOAD", "router"),
        ("ECI_GENERATION", "7"),
        ("ECI_DIR", "/var/lib/eci-agent/generations/router/7"),
        ("ECI_REFERENCE", "registry.example.com/edge/router:1.4.2"),
        ("ECI_DIGEST", &digest),
        ("ECI_PREVIOUS_DIR", "/previous/6"),
    ]);
    assert_eq!(told, expected);
    let first = hook_environment("pre_activate", &launch, dir, None);
    assert!(first.iter().all(|(name, _)| *name != "ECI_PREVIOUS_DIR"));
}

#[tokio::test]
async fn a_hook_runs_in_the_root_without_input_as_the_leader_of_its_group() {
    // The fifth field is the process group (proc_pid_stat(5)).
    let script = "pwd; cat; cut -d ' ' -f 5 /proc/$$/stat; echo $$";
    let output = sh(script, LONG).await.unwrap();
    let lines: Vec<_> = output.text().lines().collect();
    let [dir, group, pid] = lines[..] else { panic!("{output}") };
    assert!(dir == "/" && group == pid, "{output}");
}

#[tokio::test]
async fn what_it_says_is_kept_in_its_order_and_is_plain() {
    let output = sh("echo one; echo two >&2; printf '\\033[31mred\\r\\nthr\\tee\\000\\377\\n\\n'", LONG).await.unwrap();
    assert_eq!(output.text(), "one\ntwo\n\u{fffd}[31mred\nthr ee\u{fffd}\u{fffd}");
    assert_eq!(output.last_line(), Some("thr ee\u{fffd}\u{fffd}"));
    assert_eq!(output.to_string(), "one two \u{fffd}[31mred thr ee\u{fffd}\u{fffd}");
    assert_eq!(sh(":", LONG).await.unwrap(), Output::default());
}

#[tokio::test]
async fn of_a_gigabyte_the_end_is_kept() {
    let output = sh("yes é | head -c 1000000002; echo; echo end", LONG).await.unwrap();
    // The first byte of 4096 is the second of a character, which is left out.
    assert!(output.text().starts_with("…\né\n") && output.text().ends_with("é\n\nend"), "{output}");
    assert_eq!(output.text().len(), "…".len() + 4096 - 2);
}

#[tokio::test]
async fn it_fails_by_its_status() {
    let error = sh("echo the disk is not attached; echo no >&2; exit 3", LONG).await.unwrap_err();
    assert_eq!(error.to_string(), "/bin/sh ended with exit status 3: the disk is not attached no");
    let failure = Failure::from(error);
    assert_eq!((failure.kind.as_str(), failure.kind.exit_code()), ("hook-failed", 75));
    assert_eq!(sh("kill -9 $$", LONG).await.unwrap_err().to_string(), "/bin/sh ended with signal 9");
    let absent = run_hook(&["/absent/program".to_owned()], &[], LONG).await.unwrap_err();
    assert_eq!(Failure::from(absent).message, "cannot run /absent/program: No such file or directory");
    assert!(matches!(run_hook(&[], &[], LONG).await, Err(HookError::CannotRun { .. })));
}

#[tokio::test]
async fn a_child_that_holds_the_pipe_is_not_waited_for() {
    let output = sh("sleep 100000 & echo $!", LONG).await.unwrap();
    until_gone(output.text()).await;
}

#[tokio::test]
async fn a_child_that_goes_on_talking_is_not_listened_to() {
    let dir = tempfile::tempdir().unwrap();
    let (fifo, pid) = (dir.path().join("begins"), dir.path().join("pid"));
    mkfifo(&fifo, Mode::S_IRWXU).unwrap();
    let (begins, at) = (fifo.display(), pid.display());
    let output =
        sh(&format!("(echo >'{begins}'; exec yes) & echo $! >'{at}'; read _ <'{begins}'"), LONG).await.unwrap();
    assert!(output.text().len() < 5000);
    until_gone(&std::fs::read_to_string(pid).unwrap()).await;
}

#[tokio::test]
async fn a_child_that_says_nothing_ends_with_the_hook() {
    let output = sh("sleep 100000 >/dev/null 2>&1 </dev/null & echo $!", LONG).await.unwrap();
    until_gone(output.text()).await;
}

#[tokio::test]
async fn after_its_time_the_whole_group_is_killed() {
    let second = Duration::from_secs(3);
    let error = sh("trap '' TERM; sleep 100000 & echo $! $$; wait; wait", second).await.unwrap_err();
    let HookError::TimedOut { output, timeout, .. } = &error else { panic!("{error}") };
    assert_eq!(*timeout, second);
    assert!(error.to_string().starts_with("/bin/sh was not done after 3s, and was killed: "), "{error}");
    for pid in output.text().split(' ') {
        until_gone(pid).await;
    }
}

#[tokio::test]
async fn who_closes_its_output_has_no_more_time() {
    let error = sh("exec >/dev/null 2>&1; sleep 100000", Duration::from_secs(1)).await.unwrap_err();
    assert!(matches!(error, HookError::TimedOut { .. }), "{error}");
}

#[tokio::test]
async fn when_nobody_waits_for_it_any_more_the_whole_group_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("pids");
    mkfifo(&fifo, Mode::S_IRWXU).unwrap();
    let script = format!("sleep 100000 & echo $! $$ >'{}'; wait", fifo.display());
    let run = tokio::spawn(async move { sh(&script, LONG).await });
    let pids = tokio::fs::read_to_string(&fifo).await.unwrap();
    run.abort();
    assert!(run.await.unwrap_err().is_cancelled());
    for pid in pids.split(' ') {
        until_gone(pid).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_run_at_once() {
    let runs: Vec<_> = (0..32).map(|n| tokio::spawn(async move { sh(&format!("exit {n}"), LONG).await })).collect();
    for (n, run) in runs.into_iter().enumerate() {
        match run.await.unwrap() {
            Ok(_) => assert_eq!(n, 0),
            Err(HookError::Failed { status, .. }) => assert_eq!(status.code(), i32::try_from(n).ok()),
            Err(error) => panic!("{error}"),
        }
    }
}
