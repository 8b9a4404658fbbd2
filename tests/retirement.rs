//! A workload that the desired state no longer names, with the real agent: it runs on for `[desired] retire`, over
//! kills and restarts, and what is named again stays.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::common::agent::Node;
use crate::common::image::Image;
use crate::common::registry::{Registry, digest};
use crate::common::service::eventually;
use crate::common::socket::Socket;

struct Fixture {
    registry: Registry,
    node: Node,
}

impl Fixture {
    /// A node that runs router and firewall, with `[desired] retire = "RETIRE"`.
    fn new(retire: &str) -> Self {
        let registry = Registry::http();
        for name in ["router", "firewall"] {
            Image::new(name).publish(&registry, "edge/vm", name);
        }
        let mut f = Self { registry, node: Node::with_config(&format!("[desired]\nretire = \"{retire}\"\n")) };
        f.node.desire(&f.both());
        f.node.start();
        for _ in 0..2 {
            f.node.until("activated", |event| event["event"] == "activated");
        }
        f
    }

    fn table(&self, name: &str) -> String {
        format!("[workload.{name}]\nimage = \"{}\"\n", self.registry.reference("edge/vm", name))
    }

    fn both(&self) -> String {
        self.table("router") + &self.table("firewall")
    }

    /// The file does not name the router any more.
    fn lose_router(&self) {
        self.node.desire(&self.table("firewall"));
        self.until("retirement-pending");
    }

    fn until(&self, event: &str) {
        self.node.until(event, |seen| seen["event"] == event && seen["workload"] == "router");
    }

    fn router(&self) -> Value {
        self.node.status()["workloads"]["router"].clone()
    }

    fn link(&self) -> PathBuf {
        self.node.state_dir().join("workloads/router/current")
    }

    fn state(&self) -> Value {
        serde_json::from_slice(&fs::read(self.node.state_dir().join("state.json")).unwrap()).unwrap()
    }

    fn retirement(&self) -> Value {
        self.state()["workloads"]["router"]["retirement"].clone()
    }

    /// Changes what `state.json` says of the router's retirement, as after a boot of the machine.
    fn rewrite(&self, change: impl Fn(&mut Value)) {
        let mut state = self.state();
        change(&mut state["workloads"]["router"]["retirement"]);
        state.as_object_mut().unwrap().remove("checksum");
        let text = serde_json::to_string_pretty(&state).unwrap();
        let (first, rest) = text.split_once('\n').unwrap();
        let checksum = format!("  \"checksum\": \"{}\",", digest(text.as_bytes()));
        fs::write(self.node.state_dir().join("state.json"), format!("{first}\n{checksum}\n{rest}")).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_runs_on_for_its_time_and_is_told() {
    let f = Fixture::new("2s");
    let lost = Instant::now();
    f.lose_router();
    let router = f.router();
    assert_eq!((&router["phase"], &router["current"]["generation"]), (&json!("active"), &json!(1)), "{router}");
    let (at, left) = (router["retires_at"].as_str().unwrap(), router["retirement"]["ends_in_s"].as_f64().unwrap());
    assert!((0.0..=2.0).contains(&left), "{router}");
    let at: jiff::Timestamp = at.parse().unwrap();
    assert!(at.duration_since(jiff::Timestamp::now()).as_secs_f64().abs() < 4.0, "{at}");
    assert!(f.link().exists());
    assert_eq!(f.node.status()["workloads"]["firewall"]["retires_at"], Value::Null);
    let metrics = String::from_utf8(Socket::open(&f.node.socket()).get("/metrics").body).unwrap();
    assert!(metrics.contains("eci_workload_retirement_pending{workload=\"router\"} 1"), "{metrics}");
    assert!(metrics.contains("eci_workload_retirement_pending{workload=\"firewall\"} 0"), "{metrics}");
    f.until("retired");
    assert!(lost.elapsed() >= Duration::from_secs(2), "{:?}", lost.elapsed());
    assert!(!f.link().exists());
    let log = f.node.log();
    let warned =
        log.lines().any(|line| line.contains("WARN") && line.contains("router: the desired state no longer names it"));
    assert!(warned, "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn named_again_it_stays_as_it_was() {
    let f = Fixture::new("1h");
    let before = (f.router(), fs::read_link(f.link()).unwrap());
    f.lose_router();
    // Nothing of it is collected meanwhile.
    assert!(f.node.eci(&["gc"]).status.success());
    assert!(f.link().join("disk-root").exists());
    f.node.desire(&f.both());
    f.until("retirement-cancelled");
    assert_eq!((f.router(), fs::read_link(f.link()).unwrap()), before);
    // Positive control for the collection.
    f.node.desire("workloads = {}\n");
    f.until("retirement-pending");
    let file = f.node.desired();
    let file = file.to_str().unwrap();
    assert!(f.node.eci(&["apply", file, "--desired", file, "--retire"]).status.success());
    eventually("empty", || f.node.status()["workloads"].as_object().unwrap().is_empty().then_some(()));
    assert!(f.node.eci(&["gc"]).status.success());
    assert!(!f.node.state_dir().join("generations/router").join("1").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_changes_nothing_about_the_deadline() {
    let mut f = Fixture::new("1h");
    f.lose_router();
    let saved = f.retirement();
    assert!(saved["ends_at"].is_object(), "{saved}");
    for _ in 0..2 {
        f.node.kill();
        // The clients without an agent see it as well.
        assert!(f.router()["retirement"]["ends_in_s"].as_f64().unwrap() > 3500.0);
        f.node.start();
        let router = f.router();
        assert!(router["retires_at"].is_string() && f.link().exists(), "{router}");
        assert_eq!(f.retirement(), saved);
    }
    assert_eq!(f.node.log().matches("its retirement is pending").count(), 2, "each start says so: {}", f.node.log());
    // Named again while no agent runs.
    f.node.kill();
    f.node.desire(&f.both());
    f.node.start();
    eventually("cancelled", || f.router()["retirement"].is_null().then_some(()));
    assert!(f.link().exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_that_passed_meanwhile_counts_unless_it_is_named_again() {
    for is_named_again in [true, false] {
        let mut f = Fixture::new("1h");
        f.lose_router();
        f.node.kill();
        f.rewrite(|retirement| retirement["ends_at"] = json!({"secs": 0, "nanos": 1}));
        if is_named_again {
            f.node.desire(&f.both());
        }
        f.node.start();
        if is_named_again {
            eventually("cancelled", || f.router()["retirement"].is_null().then_some(()));
            assert!(f.link().exists());
        } else {
            f.until("retired");
            assert!(!f.link().exists());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_reboot_the_time_starts_anew() {
    let mut f = Fixture::new("1h");
    f.lose_router();
    f.node.stop();
    // Of another boot, whose clock had come further than this one's, or less far.
    for secs in [0, 1_u64 << 40] {
        f.rewrite(|retirement| {
            retirement["boot"] = json!(format!("{:032x}", 7));
            retirement["ends_at"] = json!({"secs": secs, "nanos": 0});
        });
        let left = |f: &Fixture| f.router()["retirement"]["ends_in_s"].as_f64().unwrap();
        assert!((3500.0..=3600.0).contains(&left(&f)), "without an agent: {}", left(&f));
        f.node.start();
        assert!((3500.0..=3600.0).contains(&left(&f)), "{}", left(&f));
        assert!(f.link().exists());
        f.node.stop();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_an_operator_retires_where_that_is_configured() {
    let mut f = Fixture::new("confirm");
    f.lose_router();
    let router = f.router();
    assert_eq!((&router["retires_at"], &router["retirement"]), (&Value::Null, &json!({"ends_in_s": null})), "{router}");
    let shown = String::from_utf8(f.node.eci(&["status"]).stdout).unwrap();
    assert!(shown.contains("retired only by \"eci apply --retire\""), "{shown}");
    f.node.kill();
    f.node.start();
    assert_eq!(f.router()["retirement"], json!({"ends_in_s": null}));
    let file = f.node.desired();
    let file = file.to_str().unwrap();
    assert!(f.node.eci(&["apply", file, "--desired", file, "--retire"]).status.success());
    f.until("retired");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_file_holds_what_is_due() {
    let f = Fixture::new("1s");
    f.lose_router();
    f.node.desire("image = 3\n");
    f.node.until_rejected("desired-invalid");
    eventually("due", || (f.router()["retirement"]["ends_in_s"] == json!(0.0)).then_some(()));
    // A request has the loop go round: what is due is seen to.
    assert!(f.node.eci(&["reconcile", "firewall"]).status.success());
    assert!(f.link().exists() && f.router()["retirement"].is_object());
    f.node.desire(&f.table("firewall"));
    f.until("retired");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_state_is_no_reason_to_retire_at_once() {
    let mut f = Fixture::new("1h");
    f.node.kill();
    fs::remove_file(f.node.state_dir().join("state.json")).unwrap();
    f.node.desire(&f.table("firewall"));
    f.node.start();
    f.until("retirement-pending");
    assert!(f.link().exists());
    f.node.kill();
    f.node.start();
    assert!(f.router()["retires_at"].is_string() && f.link().exists());
    f.node.desire(&f.both());
    f.until("retirement-cancelled");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probation_is_confirmed_while_a_retirement_is_pending() {
    let f = Fixture::new("1h");
    f.node.desire(&format!("{}cmdline = \"x\"\nconfirm = \"1h\"\n{}", f.table("router"), f.table("firewall")));
    f.node.until("probation", |event| event["event"] == "phase" && event["phase"] == "probation");
    f.lose_router();
    assert_eq!(f.router()["phase"], "probation");
    assert!(f.node.eci(&["confirm", "router"]).status.success());
    let router = f.router();
    assert_eq!((&router["phase"], router["retires_at"].is_string()), (&json!("active"), true), "{router}");
    assert!(f.node.eci(&["rollback", "router"]).status.success());
    eventually("rolled back", || (f.router()["current"]["generation"] == 1).then_some(()));
}
