//! The way back with real machines: one that does not report is gone back from, nobody being there to see it, and one that
//! does is confirmed. Whatever becomes of the agent meanwhile, the machine that runs at the end is a good one.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::common::agent::{Node, PATIENCE};
use crate::common::edge_vm::{Builder, Hypervisor, Main, Reports, desired};
use crate::common::fault_points::Killer;
use crate::common::registry::{On, Registry};
use crate::common::service::eventually;

/// Longer than any test: nothing ends by it.
const LONG: &str = "1h";
/// How many moments a kill is tried at where not all are.
const SAMPLE: usize = 4;

/// A node whose machine reports, and whose agent asks for that.
struct Scene {
    // The machine ends first.
    hypervisor: Hypervisor,
    node: Node,
    reports: Reports,
    registry: Registry,
    builder: Builder,
    /// How long the machine took to boot.
    boot: Duration,
}

impl Scene {
    /// It runs v1, which its check has confirmed. `arrange` is given the node before its agent starts.
    fn new<T>(test: &str, arrange: impl FnOnce(&mut Node) -> T) -> Option<(Self, T)> {
        let builder = Builder::found(test)?;
        let (registry, reports) = (Registry::http(), Reports::open());
        let mut node = Node::with_config(&format!(
            "[health]\nhttp = \"{}\"\ninterval = \"1s\"\nhealthy_after = \"1s\"\nmax_attempts = 100\n",
            reports.health_url()
        ));
        let arranged = arrange(&mut node);
        let hypervisor = Hypervisor::start(&node, &reports);
        let mut scene = Self { hypervisor, node, reports, registry, builder, boot: Duration::ZERO };
        scene.push("v1", &Main::Reports);
        scene.desire("v1", LONG);
        scene.node.start();
        scene.node.until_phase("probation");
        let begun = Instant::now();
        scene.reports.until_up("v1");
        scene.boot = begun.elapsed();
        scene.until_confirmed(1);
        Some((scene, arranged))
    }

    fn push(&self, version: &str, main: &Main) {
        self.builder.push(&self.image(version), version, main);
    }

    fn image(&self, version: &str) -> String {
        self.registry.reference("edge/vm", version)
    }

    /// Desires a version, which is rolled back unless it is confirmed within `time`.
    fn desire(&self, version: &str, time: &str) {
        self.node.desire(&desired(&self.image(version), &format!("confirm = \"{time}\"\n")));
    }

    fn until_confirmed(&self, generation: u64) {
        self.node.until("confirmed", |event| event["event"] == "confirmed" && event["generation"] == generation);
    }

    fn workload(&self) -> Value {
        self.node.status()["workloads"]["default"].clone()
    }

    /// Waits until the machine of this generation is all that the status says to run.
    fn until_runs(&self, generation: u64) -> Value {
        eventually(&format!("generation {generation} runs"), || {
            Some(self.workload()).filter(|workload| workload["running"] == json!([generation]))
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_does_not_report_is_rolled_back_and_one_that_does_is_confirmed() {
    const TEST: &str = "a_machine_that_does_not_report_is_rolled_back_and_one_that_does_is_confirmed";
    let Some((mut scene, ())) = Scene::new(TEST, |_| ()) else { return };
    scene.push("v2", &Main::Halts);
    scene.push("v3", &Main::Reports);

    // As long as it takes on this machine to come up, and some more.
    let time = scene.boot * 2 + Duration::from_secs(5);
    scene.desire("v2", &format!("{}s", time.as_secs()));
    scene.node.until_activated("vm:v2");
    let workload = scene.until_runs(2);
    assert_eq!((&workload["phase"], &workload["current"]["confirmed"]), (&"probation".into(), &false.into()));
    let bad = workload["current"]["digest"].clone();
    scene.hypervisor.until_shown(2, "v2 halts");
    scene.node.until("unhealthy", |event| event["event"] == "unhealthy" && event["generation"] == 2);
    assert_eq!(scene.workload()["health"]["message"], "HTTP 503");
    scene.node.until("rolled back", |event| event["event"] == "rolled-back");
    scene.node.until_failed("quarantined");
    scene.reports.until_counted("v1", 2);
    let workload = scene.until_runs(1);
    assert_eq!(
        (&workload["phase"], &workload["current"]["generation"], &workload["quarantined"]),
        (&"blocked".into(), &1.into(), &json!([bad])),
        "{workload}"
    );

    // Neither a request nor another start has it tried again.
    let fetched = scene.registry.body_bytes(&On::blobs());
    assert!(scene.node.eci(&["reconcile"]).status.success());
    scene.node.kill();
    scene.node.start();
    scene.node.until_failed("quarantined");
    eventually("v1 is healthy", || (scene.workload()["health"]["healthy"] == true).then_some(()));
    assert_eq!(scene.registry.body_bytes(&On::blobs()), fetched);
    assert_eq!(scene.hypervisor.ran(), [1, 2, 1]);

    scene.desire("v3", LONG);
    scene.until_confirmed(3);
    scene.reports.until_up("v3");
    assert_eq!(scene.until_runs(3)["phase"], "active");
    assert_eq!(scene.hypervisor.ran(), [1, 2, 1, 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn whenever_the_agent_is_killed_the_machine_that_runs_at_the_end_is_the_good_one() {
    const TEST: &str = "whenever_the_agent_is_killed_the_machine_that_runs_at_the_end_is_the_good_one";
    let is_full = std::env::var_os("ECI_TEST_FULL").is_some();
    let Some((mut scene, killer)) = Scene::new(TEST, Killer::arm) else { return };
    // Each time it is another image that is bad, the first time without a kill: it counts what can be killed before.
    let (mut changes, mut tried, mut is_killed) = (0, 0, true);
    while is_killed && (is_full || tried <= SAMPLE) {
        let (version, good) = (format!("bad-{tried}"), scene.reports.count("v1"));
        scene.push(&version, &Main::Halts);
        let before = killer.changes();
        let moment = (tried > 0).then(|| if is_full { tried - 1 } else { changes * (2 * tried - 1) / (2 * SAMPLE) });
        if let Some(moment) = moment {
            killer.kill_after(&scene.node, moment);
        }
        scene.desire(&version, "2s");
        let mut at = "no change".to_owned();
        if moment.is_some() {
            match killer.until_killed(PATIENCE) {
                Some(point) => {
                    at = point.to_string();
                    scene.node.ended();
                    scene.node.start();
                }
                None => is_killed = false,
            }
        }
        scene.node.until_failed("quarantined");
        scene.reports.until_counted("v1", good + 1);
        let workload = scene.until_runs(1);
        assert_eq!(workload["current"]["generation"], 1, "killed at {at}: {workload}");
        assert_eq!(workload["quarantined"].as_array().unwrap().len(), 1, "killed at {at}: {workload}");
        assert_eq!(scene.hypervisor.ran().last(), Some(&1), "killed at {at}");
        if moment.is_none() {
            changes = killer.changes() - before;
            assert!(changes > 20, "{changes}");
        }
        println!("killed at {at}: {:?}", moment.map(|moment| format!("{moment} of {changes}")));
        tried += 1;
    }
    assert!(if is_full { tried > changes / 2 } else { is_killed }, "{tried} of {changes}");
}
