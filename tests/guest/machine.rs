//! The units of a virtual machine under the real systemd: what they run, when they run it anew, and what the agent, in its
//! sandbox, sees of it.

use serde_json::{Value, json};

use crate::common::guest::{Guest, INSTALL, System};
use crate::common::image::Image;

/// Longer than the test: nothing ends by it.
const LONG: &str = "1h";

const CONFIG: &str = r#"
[hooks]
pre_activate = ["/usr/bin/hook"]
post_activate = ["/usr/bin/hook"]
on_rollback = ["/usr/bin/hook"]
[health]
unit = "eci-vm@{workload}.service"
interval = "1s"
timeout = "30s"
threshold = 1
healthy_after = "4s"
"#;

/// What the machine's process has said, and nobody else.
const SAID: &str = "journalctl -q -o cat -t eci -u eci-vm@default.service";
const PID: &str = "systemctl show --value -p MainPID eci-vm@default.service";
/// How often it was looked whether the machine is to be started anew.
const LOOKS: &str = "journalctl -q -o cat -u eci-vm-restart@eci-vm@default.service | grep -c ^Finished";

fn desire(guest: &mut Guest, tag: &str, confirm: &str, more: &str) {
    guest.desire_so(tag, &format!("cmdline = \"quiet\"\nconfirm = \"{confirm}\"\n{more}"));
}

fn workload(guest: &mut Guest) -> Value {
    serde_json::from_str(&guest.must("eci status default --json 2>/dev/null")).unwrap()
}

/// Waits until the machine of this generation is all that runs.
fn until_runs(guest: &mut Guest, generation: u64) -> Value {
    guest.eventually(&format!("generation {generation} runs"), |guest| {
        Some(workload(guest)).filter(|workload| workload["running"] == json!([generation]))
    })
}

/// What the machine says of itself once it runs.
fn runs(disk: &str, may: &str) -> String {
    format!("runs as eci-vm on /var/lib/eci-agent/generations/default/{disk}, {may}\n")
}

#[test]
fn a_machine_runs_what_is_current_and_its_unit_is_the_check_that_confirms_it() {
    const TEST: &str = "a_machine_runs_what_is_current_and_its_unit_is_the_check_that_confirms_it";
    let images = [("v1", "one"), ("v2", "two"), ("v3", "bad"), ("v4", "four")];
    let images = images.map(|(tag, label)| (tag, Image::new(label)));
    let Some(mut guest) = Guest::new(TEST, &images) else { return };
    guest.boot();
    guest.write("/etc/eci-agent/agent.toml", CONFIG, "0644");
    guest.write("/usr/bin/hook", include_str!("hook"), "0755");
    guest.write("/usr/bin/qemu-system-x86_64", include_str!("hypervisor"), "0755");
    // On a slow machine one that crashes would else be looked at only while it is active once more.
    guest.write("/etc/systemd/system/eci-vm@.service.d/slow.conf", "[Service]\nRestartSec=5min\n", "0644");
    guest.must("chmod 0777 /srv");
    guest.must(INSTALL);
    // There is nothing to boot yet.
    guest.must("systemctl enable --now eci-vm@default.service eci-vm@default.path 2>&1");
    guest.prints("systemctl is-active eci-vm@default.service eci-vm@default.path", "inactive\nactive");

    desire(&mut guest, "v1", LONG, "");
    guest.until_active("v1");
    until_runs(&mut guest, 1);
    let mut said = runs("1/disk-root", "may not write");
    guest.prints(SAID, said.trim_end());

    desire(&mut guest, "v2", LONG, "");
    let workload_now = guest.until_active("v2");
    assert_eq!(
        (&workload_now["current"]["confirmed"], &workload_now["health"]["healthy"]),
        (&true.into(), &true.into()),
        "{workload_now}"
    );
    until_runs(&mut guest, 2);
    said += &format!("system_powerdown\n{}", runs("2/disk-root", "may not write"));
    guest.prints(SAID, said.trim_end());

    // A collection takes `previous`: it is looked at, and the machine runs on.
    let (pid, looks) = (guest.must(PID), guest.must(LOOKS));
    guest.must("printf '[cache]\\nkeep = 0\\n' >>/etc/eci-agent/agent.toml && systemctl reload eci-agent.service");
    guest.must("cd /var/lib/eci-agent/workloads/default && test -L previous && eci gc && ! test -L previous");
    guest.eventually("looked at", |guest| (guest.must(LOOKS) != looks).then_some(()));
    guest.eventually("done", |guest| guest.must("systemctl list-jobs --no-legend").is_empty().then_some(()));
    assert_eq!(guest.must(PID), pid);

    // One that crashes is never active for long enough. The time is that of a slow machine to stop one and start the other.
    desire(&mut guest, "v3", "50s", "");
    let workload_now = guest.eventually("rolled back", |guest| {
        Some(workload(guest)).filter(|workload| workload["error"]["kind"] == "quarantined")
    });
    assert_eq!(workload_now["current"]["generation"], 2, "{workload_now}");
    until_runs(&mut guest, 2);
    let journal = guest.journal();
    assert!(journal.contains("is not healthy: exit status 3: activating"), "{journal}");
    // Nobody but root is answered by systemd itself.
    let alone = "DBUS_SYSTEM_BUS_ADDRESS=unix:path=/nowhere systemctl is-active eci-vm@default.service";
    let alone = guest.run(&format!("runuser -u eci-agent -- env {alone}"));
    assert!(alone.code != 0 && alone.output.contains("Failed to connect to bus"), "{alone:?}");
    let after = guest.must(SAID);
    let bad = "crashed on /var/lib/eci-agent/generations/default/3/disk-root\n";
    said += &format!("system_powerdown\n{bad}{}", runs("2/disk-root", "may not write"));
    assert_eq!(after, said.trim_end());

    // Overlays are made in the agent's sandbox, and written to in the machine's.
    desire(&mut guest, "v4", LONG, "disks = \"overlay\"\n");
    guest.until_active("v4");
    until_runs(&mut guest, 4);
    guest.prints(&format!("{SAID} | tail -n 1"), runs("4/disk-root", "may write").trim_end());
    guest.prints(
        "cd /var/lib/eci-agent/current/ && readlink disk-root && stat -L -c '%a %U:%G' disk-root",
        "disk-root.overlay.qcow2\n660 eci-agent:eci-vm",
    );
    guest.must("eci fsck");

    let journal = guest.journal();
    for hook in ["pre_activate of default/1", "post_activate of default/2", "on_rollback of default/2"] {
        let line = format!("{hook} as eci-agent, who writes only where the agent may");
        assert!(journal.contains(&line), "{line}: {journal}");
    }
}
