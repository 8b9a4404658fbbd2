//! What becomes of a generation once its bytes are right, with the real agent: it waits, is confirmed, is rolled back, is shown
//! to hooks and checked, and a kill at any moment changes nothing about that.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::common::agent::Node;
use crate::common::fault_points::{Answer, Killer, arm};
use crate::common::image::Image;
use crate::common::registry::{Fault, On, Registry};
use crate::common::service::eventually;

const REPO: &str = "edge/nginx";
/// Longer than any test: nothing ends by it.
const LONG: &str = "1h";

struct Fixture {
    registry: Registry,
    node: Node,
}

impl Fixture {
    /// A node that runs v1, for good.
    fn new(config: &str) -> Self {
        let registry = Registry::http();
        for tag in ["v1", "v2", "v3"] {
            Image::new(tag).publish(&registry, REPO, tag);
        }
        let mut f = Self { registry, node: Node::with_config(config) };
        f.desire("v1", "");
        f.node.start();
        f.node.until_activated("nginx:v1");
        f
    }

    fn desire(&self, tag: &str, more: &str) {
        self.node.desire(&format!("image = \"{}\"\n{more}", self.registry.reference(REPO, tag)));
    }

    /// v2 is to be confirmed within `time`.
    fn try_v2(&self, time: &str) {
        self.desire("v2", &format!("confirm = \"{time}\"\n"));
        self.node.until_phase("probation");
    }

    /// How many bytes of blobs were sent.
    fn fetched(&self) -> u64 {
        self.registry.body_bytes(&On::blobs())
    }

    fn workload(&self) -> Value {
        self.node.status()["workloads"]["default"].clone()
    }

    /// What runs is v1 again, and v2 is not tried any more.
    fn until_rolled_back(&self) -> String {
        self.node.until("rolled back", |event| event["event"] == "rolled-back");
        self.node.until_failed("quarantined");
        assert_eq!(self.node.current("disk-root"), Image::new("v1").root);
        let workload = self.workload();
        assert_eq!(
            (&workload["phase"], &workload["current"]["generation"]),
            (&"blocked".into(), &1.into()),
            "{workload}"
        );
        assert_eq!(
            (&workload["current"]["confirmed"], &workload["previous"]),
            (&true.into(), &Value::Null),
            "{workload}"
        );
        assert_eq!(workload["quarantined"].as_array().unwrap().len(), 1, "{workload}");
        workload["error"]["message"].as_str().unwrap().to_owned()
    }

    fn must(&self, arguments: &[&str]) -> String {
        let output = self.node.eci(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// A command that makes no sense now ends with 75, one that never does with 64, and says why.
    fn refused(&self, arguments: &[&str]) -> String {
        let output = self.node.eci(arguments);
        let code = if arguments.len() > 1 { 64 } else { 75 };
        assert_eq!(output.status.code(), Some(code), "{arguments:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    /// A program for a hook, which runs this script of a shell.
    fn hook(&self, name: &str, script: &str) -> PathBuf {
        hook(&self.node, name, script)
    }
}

fn hook(node: &Node, name: &str, script: &str) -> PathBuf {
    let path = node.path(name);
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_staged_waits_for_a_person_over_kills_and_is_activated_without_a_registry() {
    let mut f = Fixture::new("");
    f.desire("v2", "activate = \"staged\"\n");
    f.node.until_phase("staged");
    let workload = f.workload();
    assert_eq!(
        (&workload["current"]["generation"], &workload["staged"]["generation"]),
        (&1.into(), &2.into()),
        "{workload}"
    );
    let waits = serde_json::json!({"person": true, "window": false, "window_opens_in_s": null,
        "window_opens_at": null, "window_timezone": null});
    assert_eq!(workload["waits_for"], waits, "{workload}");
    assert!(f.must(&["status"]).contains("waits for a person (eci activate default)\n"));
    assert_eq!(f.node.current("disk-root"), Image::new("v1").root);
    let fetched = f.fetched();
    f.node.kill();
    f.registry.inject(On::any(), Fault::status(503));
    f.node.start();
    f.node.until_failed("registry-error");
    let shown = f.must(&["activate"]);
    assert!(shown.starts_with("activating generation 2\n") && shown.contains("default"), "{shown}");
    f.node.until_activated("nginx:v2");
    assert_eq!(f.node.current("disk-root"), Image::new("v2").root);
    assert_eq!(f.fetched(), fetched, "not a byte more was fetched");
    assert!(f.must(&["activate", "default"]).starts_with("active already: generation 2 runs\n"));
    assert!(f.refused(&["confirm", "other"]).contains("no workload other"));
}

#[tokio::test(flavor = "multi_thread")]
async fn superseded_generations_that_waited_do_not_pile_up() {
    let f = Fixture::new("[cache]\nkeep = 0\nreserve = \"0B\"\n");
    f.desire("v2", "activate = \"staged\"\n");
    f.node.until_phase("staged");
    f.desire("v3", "activate = \"staged\"\n");
    f.node.until("v3 is staged", |event| event["event"] == "phase" && event["phase"] == "staged");
    eventually("only two are left", || {
        let names = fs::read_dir(f.node.state_dir().join("generations/default")).unwrap();
        let mut names: Vec<_> = names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        (names == ["1", "3"]).then_some(())
    });
    f.must(&["activate"]);
    f.node.until_activated("nginx:v3");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_confirms_in_time_is_rolled_back_and_stays_so() {
    let mut f = Fixture::new("");
    f.try_v2("1s");
    assert!(f.until_rolled_back().contains("it was not confirmed within 1 s"));
    // Neither a request nor a restart tries it again.
    let fetched = f.fetched();
    assert_eq!(f.must(&["reconcile"]), "looking again at the desired state and every image\n");
    assert_eq!(f.must(&["reconcile", "default"]), "looking again at workload default\n");
    f.node.kill();
    f.node.start();
    f.node.until_failed("quarantined");
    assert_eq!((f.node.current("disk-root"), f.fetched()), (Image::new("v1").root, fetched));
    // A person does, and pays for nothing twice: the blobs were kept.
    f.must(&["activate"]);
    f.node.until_phase("probation");
    assert_eq!((f.node.current("disk-root"), f.fetched()), (Image::new("v2").root, fetched));
    assert!(f.must(&["confirm"]).starts_with("kept: generation 3 is confirmed\n"));
    f.node.until("confirmed", |event| event["event"] == "confirmed" && event["generation"] == 3);
    assert_eq!(f.workload()["phase"], "active");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probation_survives_kills_and_so_many_starts_end_it() {
    let mut f = Fixture::new("[health]\nmax_attempts = 3\n");
    f.try_v2(LONG);
    for restarts in 1..3 {
        f.node.kill();
        f.node.start();
        f.node.until_phase("probation");
        let workload = f.workload();
        assert_eq!(workload["probation"]["restarts"], restarts, "{workload}");
        assert_eq!(workload["current"]["confirmed"], false, "{workload}");
        let ends_in = workload["probation"]["ends_in_s"].as_f64().unwrap();
        assert!((3000.0..3600.0).contains(&ends_in), "{workload}");
    }
    f.node.kill();
    f.node.start();
    assert!(f.until_rolled_back().contains("started 3 times"));
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_reboot_the_time_begins_anew() {
    let mut f = Fixture::new("");
    f.try_v2(LONG);
    assert!(f.node.stop().success());
    // As another boot left it, whose clock had run for longer.
    let state = f.node.state_dir().join("state.json");
    let text = fs::read_to_string(&state).unwrap();
    let mut saved: Value = serde_json::from_str(&text).unwrap();
    let probation = &mut saved["workloads"]["default"]["probations"]["2"];
    probation["boot"] = "0".repeat(32).into();
    probation["ends_at"] = serde_json::json!({"secs": 1, "nanos": 0});
    saved.as_object_mut().unwrap().remove("checksum");
    seal(&state, &serde_json::to_string_pretty(&saved).unwrap());
    f.node.start();
    f.node.until_phase("probation");
    let workload = f.workload();
    assert!((3500.0..=3600.0).contains(&workload["probation"]["ends_in_s"].as_f64().unwrap()), "{workload}");
}

/// Writes a `state.json` with the checksum that is due to it: the digest of the other lines, as the second line.
fn seal(path: &Path, text: &str) {
    let (first, rest) = text.split_once('\n').unwrap();
    let checksum = crate::common::registry::digest(text.as_bytes());
    fs::write(path, format!("{first}\n  \"checksum\": \"{checksum}\",\n{rest}")).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn however_many_updates_come_the_confirmed_generation_is_kept_and_gone_back_to() {
    let mut f = Fixture::new("[cache]\nkeep = 0\nreserve = \"0B\"\n");
    f.try_v2(LONG);
    f.desire("v3", &format!("confirm = \"{LONG}\"\n"));
    f.node.until_activated("nginx:v3");
    f.must(&["gc"]);
    let workload = f.workload();
    assert_eq!(
        (&workload["current"]["generation"], &workload["previous"]["generation"]),
        (&3.into(), &1.into()),
        "{workload}"
    );
    assert!(f.must(&["rollback"]).contains("default"));
    f.until_rolled_back();
    f.must(&["rollback"]);
    assert_eq!(f.node.current("disk-root"), Image::new("v1").root, "asked again, it is not swapped to and fro");
    assert!(f.node.stop().success());
    let dangling = |link: &str| f.node.state_dir().join(link).symlink_metadata().is_ok();
    assert!(!dangling("previous") && !dangling("workloads/default/previous"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_no_sense_is_refused_and_changes_nothing() {
    let f = Fixture::new("");
    assert!(f.refused(&["rollback"]).contains("no generation before 1"));
    f.must(&["confirm"]);
    f.must(&["activate"]);
    f.registry.inject(On::blobs(), Fault::status(503));
    f.desire("v2", "activate = \"staged\"\n");
    f.node.until_failed("registry-error");
    assert!(f.refused(&["activate"]).contains("nothing is ready"));
    assert!(f.refused(&["rollback", "no-such"]).contains("no workload no-such"));
    assert!(f.refused(&["rollback", "No Such"]).contains("is no name of a workload"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_image_has_nothing_to_go_back_to_and_stays() {
    let registry = Registry::http();
    Image::new("v1").publish(&registry, REPO, "v1");
    let mut node = Node::new();
    node.desire(&format!("image = \"{}\"\nconfirm = \"1s\"\n", registry.reference(REPO, "v1")));
    node.start();
    node.until_failed("unconfirmed");
    assert_eq!(node.current("disk-root"), Image::new("v1").root);
    assert_eq!(node.status()["workloads"]["default"]["phase"], "probation");
    assert!(node.eci(&["confirm"]).status.success());
    assert_eq!(node.status()["workloads"]["default"]["error"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_any_change_of_the_disk_loses_neither_a_probation_nor_a_way_back() {
    // First it is counted how many changes there are, then the agent is killed before each.
    let armed = |config: &str| {
        let mut f = Fixture::new(config);
        let killer = Killer::arm(&mut f.node);
        f.node.kill();
        f.node.start();
        f.node.until_phase("active");
        (f, killer)
    };
    let (f, killer) = armed("");
    let before = killer.changes();
    f.try_v2("1s");
    f.until_rolled_back();
    let changes = killer.changes() - before;
    assert!(changes > 30, "{changes}");
    drop(f);
    let full = std::env::var_os("ECI_TEST_FULL").is_some();
    let moments = (0..changes).step_by(if full { 1 } else { changes / 12 });
    for moment in moments {
        let (mut f, killer) = armed("[health]\nmax_attempts = 100\n");
        killer.kill_after(&f.node, moment);
        f.desire("v2", "confirm = \"1s\"\n");
        f.node.ended();
        f.node.start();
        f.node.until_failed("quarantined");
        assert_eq!(f.node.current("disk-root"), Image::new("v1").root, "killed at change {moment}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hook_may_veto_and_its_words_are_in_the_status_until_it_agrees() {
    let mut f = Fixture::new("");
    let leave = f.node.path("leave");
    let script = format!(
        "echo \"not now: $ECI_WORKLOAD/$ECI_GENERATION $ECI_HOOK $ECI_PREVIOUS_DIR\"; test -e {}",
        leave.display()
    );
    let veto = f.hook("veto", &script);
    let told = f.node.path("told");
    let tell = f.hook("tell", &format!("echo \"$ECI_HOOK $ECI_GENERATION $ECI_DIR\" >>{}", told.display()));
    f.node.configure(&format!(
        "[hooks]\npre_activate = [{veto:?}]\npost_activate = [{tell:?}]\non_rollback = [{tell:?}]\n"
    ));
    assert!(f.node.stop().success());
    f.node.start();
    f.node.until_phase("active");
    f.desire("v2", "confirm = \"1s\"\n");
    f.node.until_failed("hook-failed");
    let message = f.workload()["error"]["message"].as_str().unwrap().to_owned();
    let previous = f.node.state_dir().join("generations/default/1");
    assert!(message.contains(&format!("not now: default/2 pre_activate {}", previous.display())), "{message}");
    assert_eq!(f.node.current("disk-root"), Image::new("v1").root);
    fs::write(&leave, "").unwrap();
    f.until_rolled_back();
    let dir = |number: u32| f.node.state_dir().join(format!("generations/default/{number}")).display().to_string();
    let wanted = format!("post_activate 2 {}\non_rollback 1 {}\n", dir(2), dir(1));
    eventually("both were told", || (fs::read_to_string(&told).unwrap_or_default() == wanted).then_some(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hook_that_a_kill_has_ended_is_run_again() {
    let mut f = Fixture::new("");
    let (told, gate) = (f.node.path("told"), f.node.path("gate"));
    let script = format!("echo begun >>{0}; test -e {1} || exec sleep 1000", told.display(), gate.display());
    let tell = f.hook("tell", &script);
    f.node.configure(&format!("[hooks]\npost_activate = [{tell:?}]\n"));
    assert!(f.node.stop().success());
    f.node.start();
    f.node.until_phase("active");
    assert!(!told.exists(), "what ran before was announced then");
    f.desire("v2", "");
    f.node.until_activated("nginx:v2");
    let lines = |count| move |text: String| (text.lines().count() == count).then_some(());
    let read = || fs::read_to_string(&told).unwrap_or_default();
    eventually("begun", || lines(1)(read()));
    f.node.kill();
    fs::write(&gate, "").unwrap();
    f.node.start();
    eventually("begun again", || lines(2)(read()));
    eventually("and noted", || {
        let saved: Value = serde_json::from_slice(&fs::read(f.node.state_dir().join("state.json")).unwrap()).unwrap();
        (saved["workloads"]["default"]["announced"] == 2).then_some(())
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn what_answers_for_long_enough_is_confirmed_and_watched_from_then_on() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let check = format!("tcp = \"{address}\"\ninterval = \"1s\"\nhealthy_after = \"1s\"\nthreshold = 2\n");
    let f = Fixture::new(&format!("[health]\n{check}"));
    f.try_v2(LONG);
    f.node.until("healthy", |event| event["event"] == "healthy" && event["generation"] == 2);
    f.node.until("confirmed", |event| event["event"] == "confirmed" && event["generation"] == 2);
    assert_eq!(f.workload()["health"]["healthy"], true);
    drop(listener);
    f.node.until("unhealthy", |event| event["event"] == "unhealthy" && event["generation"] == 2);
    let workload = f.workload();
    assert_eq!((&workload["phase"], &workload["health"]["healthy"]), (&"active".into(), &false.into()), "{workload}");
    assert!(workload["health"]["message"].as_str().unwrap().contains("refused"), "{workload}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_never_answers_is_rolled_back_by_its_check_alone() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let f = Fixture::new(&format!("[health]\ntcp = \"{address}\"\ninterval = \"1s\"\nhealthy_after = \"1s\"\n"));
    f.try_v2("2s");
    let why = f.until_rolled_back();
    assert!(why.contains("not confirmed within 2 s; the last") && why.contains("connection refused"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_that_the_machine_of_before_still_answers_confirms_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let f = Fixture::new(&format!("[health]\ntcp = \"{address}\"\ninterval = \"1s\"\nhealthy_after = \"1s\"\n"));
    let mut old = f.node.command(&["exec", "--", "sleep", "1000"]).spawn().unwrap();
    eventually("it runs", || (f.workload()["running"] == serde_json::json!([1])).then_some(()));
    f.try_v2(LONG);
    f.node.until("checked", |event| {
        event["event"] == "unhealthy" && event["message"].as_str().unwrap().contains("still runs")
    });
    assert_eq!(f.workload()["phase"], "probation");
    old.kill().unwrap();
    old.wait().unwrap();
    f.node.until("confirmed", |event| event["event"] == "confirmed");
}

#[tokio::test(flavor = "multi_thread")]
async fn outside_the_window_it_is_fetched_and_waits() {
    // A day of the week that it is neither now nor soon.
    let far = jiff::Timestamp::now() + std::time::Duration::from_secs(3 * 24 * 3600);
    let far = jiff::tz::TimeZone::UTC.to_datetime(far).date();
    let day = format!("{:?}", far.weekday()).to_lowercase()[..3].to_owned();
    let f = Fixture::new("");
    f.node.configure(&format!("[window]\ndays = [\"{day}\"]\nstart = \"02:00\"\nend = \"04:00\"\n"));
    f.node.signal(Signal::SIGHUP);
    eventually("the window is closed", || f.node.log().contains("the configuration is reloaded").then_some(()));
    f.desire("v2", "activate = \"staged\"\n");
    f.node.until_phase("staged");
    let fetched = f.fetched();
    let whom = |workload: &Value| (workload["waits_for"]["person"].clone(), workload["waits_for"]["window"].clone());
    assert_eq!(whom(&f.workload()), (true.into(), true.into()));
    f.must(&["activate"]);
    let workload = f.workload();
    assert_eq!(workload["phase"], "staged", "a person does not open the window: {workload}");
    assert_eq!(whom(&workload), (false.into(), true.into()));
    // It opens in two to four days.
    let opens_in = workload["waits_for"]["window_opens_in_s"].as_f64().unwrap();
    assert!((2.0 * 86_400.0..4.0 * 86_400.0).contains(&opens_in), "{workload}");
    let shown = f.must(&["status"]);
    assert!(shown.contains("waits for the window (opens in ") && !shown.contains("a person"), "{shown}");
    f.node.configure("");
    f.node.signal(Signal::SIGHUP);
    f.node.until_activated("nginx:v2");
    assert_eq!((f.fetched(), &f.workload()["waits_for"]), (fetched, &Value::Null));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_way_back_that_was_damaged_is_not_taken() {
    let mut f = Fixture::new("");
    f.try_v2("2s");
    let one = f.node.state_dir().join("generations/default/1");
    fs::remove_file(one.join("launch.json")).unwrap();
    f.node.until_failed("unconfirmed");
    assert_eq!(f.node.current("disk-root"), Image::new("v2").root);
    f.must(&["confirm"]);
    assert_eq!(f.workload()["phase"], "active");
    assert!(f.node.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_and_was_damaged_is_laid_out_again_before_it_boots() {
    let f = Fixture::new("");
    f.desire("v2", "activate = \"staged\"\n");
    f.node.until_phase("staged");
    fs::remove_file(f.node.state_dir().join("generations/default/2/kernel")).unwrap();
    f.must(&["activate"]);
    f.node.until_failed("damaged");
    f.node.until_phase("staged");
    assert_eq!(f.node.current("disk-root"), Image::new("v1").root);
    f.must(&["activate"]);
    f.node.until_activated("nginx:v2");
    assert_eq!(f.workload()["current"]["generation"], 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_was_lost_while_no_agent_ran_is_set_again_and_nothing_good_goes() {
    let mut f = Fixture::new("");
    f.try_v2(LONG);
    f.must(&["rollback"]);
    f.until_rolled_back();
    assert!(f.node.stop().success());
    for link in ["current", "workloads/default/current"] {
        fs::remove_file(f.node.state_dir().join(link)).unwrap();
    }
    assert!(f.node.eci(&["gc"]).status.success());
    f.node.start();
    f.node.until_failed("quarantined");
    assert_eq!(f.node.current("disk-root"), Image::new("v1").root);
    assert_eq!(f.workload()["current"]["generation"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_again_after_a_rollback_is_repaired_where_it_is_damaged() {
    let f = Fixture::new("");
    f.try_v2(LONG);
    f.must(&["rollback"]);
    f.until_rolled_back();
    let kernel = f.node.state_dir().join("generations/default/1/kernel");
    fs::remove_file(&kernel).unwrap();
    f.must(&["reconcile"]);
    eventually("it is whole again", || kernel.exists().then_some(()));
    eventually("and known to be", || {
        (f.workload()["current"]["generation"] == 1 || f.node.eci(&["reconcile"]).status.code() == Some(1))
            .then_some(())
    });
    assert_eq!(f.node.current("disk-root"), Image::new("v1").root);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_that_hangs_holds_up_no_other() {
    let registry = Registry::http();
    for tag in ["v1", "v2"] {
        Image::new(tag).publish(&registry, REPO, tag);
    }
    let mut node = Node::new();
    let check = hook(&node, "check", "test \"$ECI_WORKLOAD\" = good || exec sleep 1000");
    node.configure(&format!(
        "[health]\ncommand = [{check:?}]\ninterval = \"1s\"\ntimeout = \"1h\"\nhealthy_after = \"1s\"\n"
    ));
    let (one, two) = (registry.reference(REPO, "v1"), registry.reference(REPO, "v2"));
    node.desire(&format!("[workload.bad]\nimage = \"{one}\"\n[workload.good]\nimage = \"{two}\"\nconfirm = \"1h\"\n"));
    node.start();
    node.until("confirmed", |event| event["event"] == "confirmed" && event["workload"] == "good");
    assert!(node.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_that_cannot_be_saved_is_refused() {
    let mut f = Fixture::new("[retry]\ninitial = \"1h\"\nmax = \"1h\"\n");
    let fails = Arc::new(AtomicBool::new(false));
    let (full, f_node) = (Arc::clone(&fails), &mut f.node);
    arm(f_node, move |point| {
        let is_state = point.path.to_string_lossy().contains("state.json");
        if full.load(SeqCst) && is_state { Answer::Fail(nix::errno::Errno::ENOSPC) } else { Answer::Go }
    });
    f.node.kill();
    f.node.start();
    f.node.until_phase("active");
    f.try_v2(LONG);
    fails.store(true, SeqCst);
    let confirmed = f.node.eci(&["confirm"]);
    assert_eq!(confirmed.status.code(), Some(73), "{confirmed:?}");
    // The way back waits for no disk, whatever may be said of it.
    let rolled_back = f.node.eci(&["rollback"]);
    assert_eq!(rolled_back.status.code(), Some(73), "{rolled_back:?}");
    eventually("it is back", || (f.node.current("disk-root") == Image::new("v1").root).then_some(()));
    fails.store(false, SeqCst);
    f.must(&["reconcile"]);
    f.node.until_failed("quarantined");
}
