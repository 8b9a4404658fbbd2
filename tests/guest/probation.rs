//! A generation that nobody confirms, on a node that is turned off and on: each start counts, and the last one allowed is the
//! way back, without a network.

use serde_json::{Value, json};

use crate::common::guest::{Guest, INSTALL, System};
use crate::common::image::Image;

#[test]
fn a_probation_outlives_a_reboot_and_a_power_cut_ends_it() {
    const TEST: &str = "a_probation_outlives_a_reboot_and_a_power_cut_ends_it";
    let images = ["v1", "v2"].map(|tag| (tag, Image::new(tag)));
    let Some(mut guest) = Guest::new(TEST, &images) else { return };
    let workload = |guest: &mut Guest| -> Value {
        serde_json::from_str(&guest.must("eci status default --json 2>/dev/null")).unwrap()
    };
    guest.boot();
    guest.write("/etc/eci-agent/agent.toml", "[health]\nmax_attempts = 2\n", "0644");
    guest.must(INSTALL);
    guest.desire("v1");
    guest.until_active("v1");
    guest.desire_so("v2", "confirm = \"1h\"\n");
    let on_probation = |guest: &mut Guest, restarts: u32| {
        guest.eventually(&format!("on probation after {restarts} starts"), |guest| {
            Some(workload(guest)).filter(|now| now["probation"]["restarts"] == restarts)
        })
    };
    let before = on_probation(&mut guest, 0);

    guest.reboot();
    let now = on_probation(&mut guest, 1);
    assert_eq!((&now["current"]["generation"], &now["current"]["confirmed"]), (&2.into(), &false.into()), "{now}");
    // It begins anew: how long the machine was off nobody knows.
    assert!(now["probation"]["ends_in_s"].as_f64().unwrap() > 3000.0, "{now}");

    guest.cut_power();
    guest.boot();
    guest.prints("systemctl is-active registry.service", "inactive");
    let now =
        guest.eventually("rolled back", |guest| Some(workload(guest)).filter(|now| now["current"]["generation"] == 1));
    assert_eq!(
        (&now["current"]["confirmed"], &now["quarantined"]),
        (&true.into(), &json!([before["current"]["digest"]])),
        "{now}"
    );
    assert!(guest.journal().contains("started 2 times before it was confirmed"), "{}", guest.journal());
    guest.must("systemctl start registry.service && eci reconcile");
    let now = guest.eventually("it is known to be bad", |guest| {
        Some(workload(guest)).filter(|now| now["error"]["kind"] == "quarantined")
    });
    assert_eq!((&now["phase"], &now["current"]["generation"]), (&"blocked".into(), &1.into()), "{now}");
}
