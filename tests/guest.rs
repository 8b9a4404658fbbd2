//! Debian with systemd, in a machine of its own: the program under its real units, reboots, and power that is cut.

use std::time::{Duration, Instant};

use crate::common::guest::{Guest, INSTALL, System};
use crate::common::image::Image;
use crate::common::registry::digest;

mod access;
mod machine;
mod probation;
mod qemu;

/// What the agent and its sandbox are like, line by line: what runs as whom, and what it may do.
const PROCESS: &str = "
    pid=$(systemctl show --value -p MainPID eci-agent.service)
    stat -c %U:%G /proc/$pid
    tr '\\0' '\\n' </proc/$pid/environ | grep MALLOC_ARENA_MAX
    sed -n 's/^\\(CapEff\\|NoNewPrivs\\|Seccomp\\):\\t/\\1 /p' /proc/$pid/status
";

/// Run in the sandbox of the service, before the agent: what it has to be allowed, and what not.
const PROBE: &str = r#"
    mkdir -p /etc/systemd/system/eci-agent.service.d
    chmod 0777 /srv && mkdir -p -m 0755 /home/tender
    cat >/usr/bin/probe <<'END'
#!/bin/sh
renice -n 19 -p $$ >/dev/null 2>&1 || echo "has its priority"
touch /var/lib/eci-agent/probe && chgrp eci-agent /var/lib/eci-agent/probe && rm /var/lib/eci-agent/probe && echo "has its state"
touch /srv/probe 2>/dev/null || echo "has nothing else"
touch /run/eci-agent/probe 2>/dev/null || echo "has no runtime directory"
ls /home/tender >/dev/null 2>&1 || echo "sees nobody's home"
END
    chmod 0755 /usr/bin/probe
    printf '[Service]\nExecStartPre=/usr/bin/probe\n' >/etc/systemd/system/eci-agent.service.d/probe.conf
    systemctl daemon-reload && systemctl restart eci-agent.service
    journalctl -o cat -t probe
"#;

/// An installation whose runtime directory the agent owned, and has put a drop-in into: that is upgraded.
const TAKEN_BACK: &str = r#"
    chown eci-agent: /run/eci-agent && rmdir /run/eci-agent/agent.d
    runuser -u eci-agent -- sh -c 'mkdir /run/eci-agent/agent.d && echo "[log]" >/run/eci-agent/agent.d/x.toml'
    systemd-tmpfiles --create /usr/lib/tmpfiles.d/eci-agent.conf
    stat -c '%a %U:%G' /run/eci-agent /run/eci-agent/agent.d
    said=$(eci config check 2>&1); echo "$? $(grep -o 'belongs to user' <<<"$said")"
    rm /run/eci-agent/agent.d/x.toml && eci status >/dev/null; echo $?
"#;

/// The service alone says what it needs, slowly, and runs once it has that.
fn without_its_socket_unit(guest: &mut Guest) {
    guest.must("systemctl mask --runtime --now eci-agent.socket 2>&1 && systemctl stop eci-agent.service 2>&1");
    let refused = guest.run("systemctl start eci-agent.service 2>&1");
    assert_ne!(refused.code, 0, "{refused:?}");
    guest.prints(
        "systemctl show -p ExecMainStatus -p Restart -p RestartUSec eci-agent.service",
        "Restart=always\nRestartUSec=5s\nExecMainStatus=78",
    );
    let journal = guest.journal();
    assert!(journal.contains("systemctl enable --now eci-agent.socket"), "{journal}");
    guest.must(
        "systemctl unmask --runtime eci-agent.socket && systemctl enable --now eci-agent.socket 2>&1 && eci status",
    );
    guest.eventually("it runs", |guest| {
        let active = guest.run("systemctl is-active eci-agent.service eci-agent.socket");
        (active.code == 0).then_some(())
    });
}
/// Desires an image of a compressed layer.
const UNPACK: &str = r#"
    set -e
    head -c 3000000 /dev/urandom >/root/root.raw
    eci push --format legacy --root /root/root.raw oci:/srv/images:v2
    printf 'image = "oci:/srv/images:v2"\n' >/etc/eci-agent/desired.toml
"#;

/// Desires another one, where the unit's filter is as it was before there were workers.
const FORBID_SECCOMP: &str = r#"
    set -e
    head -c 3000000 /dev/urandom >/root/other.raw
    eci push --format legacy --root /root/other.raw oci:/srv/images:v3
    printf '[Service]\nSystemCallFilter=~seccomp\n' >/etc/systemd/system/eci-agent.service.d/seccomp.conf
    systemctl daemon-reload
    systemctl restart eci-agent.service
    printf 'image = "oci:/srv/images:v3"\n' >/etc/eci-agent/desired.toml
"#;

#[test]
fn the_package_runs_under_systemd_and_comes_back_after_a_reboot() {
    const TEST: &str = "the_package_runs_under_systemd_and_comes_back_after_a_reboot";
    let image = Image::new("v1").with_root_of(1 << 20);
    let Some(mut guest) = Guest::new(TEST, &[("v1", image)]) else { return };
    guest.boot();
    guest.must(INSTALL);
    guest.prints("systemctl is-enabled eci-agent.service eci-agent.socket", "enabled\nenabled");
    guest.desire("v1");
    let generation = guest.until_active("v1")["current"]["generation"].clone();
    guest.eventually("shown by systemctl", |guest| {
        let shown = guest.must("systemctl status --no-pager eci-agent.service");
        shown.contains("Status: \"default: active, boots generation 1\"").then_some(())
    });
    guest.prints(PROCESS, "eci-agent:eci-agent\nMALLOC_ARENA_MAX=1\nCapEff 0000000000000000\nNoNewPrivs 1\nSeccomp 2");
    guest.prints(
        "cd /var/lib/eci-agent; stat -c '%a %U:%G' /run/eci-agent /run/eci-agent/agent.sock . current/. current/kernel state.json",
        "755 root:root\n660 root:eci-agent\n755 eci-agent:eci-agent\n755 eci-agent:eci-agent\n444 eci-agent:eci-agent\n600 eci-agent:eci-agent",
    );

    guest.must("useradd --groups eci-agent tender && useradd stranger");
    guest.must("runuser -u tender -- eci status && runuser -u tender -- eci reconcile");
    let refused = guest.run("runuser -u stranger -- eci status");
    assert_eq!(refused.code, 77, "{refused:?}");
    // A hypervisor under another user boots from it.
    guest.must("cd /var/lib/eci-agent/current/ && runuser -u stranger -- cat kernel disk-root >/dev/null");

    // There was no desired state at first, and this Debian has no certificates. Nothing else is worth a warning so far.
    let warnings = "journalctl -q -o cat -p warning -u eci-agent.service";
    guest.prints(&format!("{warnings} | grep -v -e 'desired.toml does not exist' -e 'no certificate authorities'"), "");
    guest
        .must("printf '[log]\\nlevel = \"debug\"\\n' >/etc/eci-agent/agent.toml && systemctl reload eci-agent.service");
    assert!(guest.journal().contains("the configuration is reloaded"));
    let before = guest.must("systemctl show --value -p MainPID eci-agent.service");
    guest.prints(
        PROBE,
        "has its priority\nhas its state\nhas nothing else\nhas no runtime directory\nsees nobody's home",
    );
    let after = guest.must("systemctl show --value -p MainPID eci-agent.service");
    assert_ne!(before, after, "a restart");
    // The socket outlives the service, and brings it back.
    guest.must("systemctl stop eci-agent.service 2>&1");
    guest.prints(
        "systemctl show -p Result -p NRestarts -p ActiveState eci-agent.service",
        "Result=success\nNRestarts=0\nActiveState=inactive",
    );
    guest.must("eci status && systemctl is-active eci-agent.service");

    guest.prints(TAKEN_BACK, "755 root:root\n755 root:root\n78 belongs to user\n0");
    without_its_socket_unit(&mut guest);

    // Without the registry, and without any network.
    guest.reboot();
    guest.must("systemctl is-system-running --wait");
    guest.prints(
        "systemctl is-active eci-agent.service eci-agent.socket registry.service network-online.target",
        "active\nactive\ninactive\ninactive",
    );
    let status = guest.must("eci status default --json 2>/dev/null");
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["current"]["generation"], generation, "{status}");
    guest.must("systemctl start registry.service && eci reconcile");
    guest.until_active("v1");

    // A compressed layer is unpacked by a worker, which confines itself in the unit's sandbox.
    guest.must(UNPACK);
    guest.eventually("unpacked", |guest| {
        (guest.run("cmp /root/root.raw /var/lib/eci-agent/current/disk-root").code == 0).then_some(())
    });
    assert!(guest.journal().contains("a worker is confined"), "{}", guest.journal());
    guest.prints("journalctl -q -o cat -u eci-agent.service | grep -c worker-", "0");
    // Without seccomp, it says so and unpacks nothing.
    guest.must(FORBID_SECCOMP);
    guest.eventually("refused", |guest| {
        let error = guest.run("eci status default --json").output;
        (error.contains("worker-unconfined") && error.contains("cannot confine itself")).then_some(())
    });
    guest.must("cmp /root/root.raw /var/lib/eci-agent/current/disk-root");
}

/// How far into an update the power is cut, in parts of what a whole one takes. Spread by chance, once.
const MOMENTS: [f64; 16] =
    [0.31, 0.72, 0.12, 0.93, 0.55, 0.04, 0.83, 0.44, 0.64, 0.21, 0.98, 0.37, 0.77, 0.08, 0.50, 0.88];

/// Ends when the second generation boots.
const UNTIL_SECOND: &str =
    "until [ $(readlink /var/lib/eci-agent/current) = generations/default/2 ]; do sleep 0.05; done";

#[test]
fn power_that_is_cut_within_an_update_leaves_what_boots_whole() {
    const TEST: &str = "power_that_is_cut_within_an_update_leaves_what_boots_whole";
    let cuts = if std::env::var_os("ECI_TEST_FULL").is_some() { MOMENTS.len() } else { 3 };
    // In turn: when one of them is desired again, nothing of it is kept any more.
    let tags = ["v0", "v1", "v2", "v3"];
    let images = tags.map(|tag| (tag, Image::new(tag).with_root_of(24 << 20)));
    let Some(mut guest) = Guest::new(TEST, &images) else { return };
    // What `look.service` says of an image that is whole.
    let sums = images.map(|(_, image)| {
        let files = [(&image.kernel, "kernel"), (&image.initrd, "initrd"), (&image.root, "disk-root")];
        let line = |(bytes, name): (&Vec<u8>, &str)| format!("{}  {name}", digest(bytes).replace("sha256:", ""));
        files.map(line).join("\n")
    });

    guest.boot();
    guest.must(INSTALL);
    guest.desire(tags[0]);
    guest.until_active(tags[0]);
    guest.desire(tags[1]);
    let begun = Instant::now();
    guest.must(UNTIL_SECOND);
    let whole = begun.elapsed();
    guest.until_active(tags[1]);

    for (n, part) in (1..).zip(&MOMENTS[..cuts]) {
        let (before, after) = (n % tags.len(), (n + 1) % tags.len());
        guest.desire(tags[after]);
        // A moment of the update, and not a time to wait for something.
        std::thread::sleep(Duration::from_secs_f64(whole.as_secs_f64() * part));
        guest.cut_power();
        guest.boot();
        let left = guest.must("systemctl start look.service && cat /run/left");
        let (dir, found) = left.split_once('\n').unwrap();
        assert!([&sums[before], &sums[after]].contains(&&found.to_owned()), "cut at {part}: not whole: {left}");
        println!("cut at {part} of {whole:?}: {dir} was current");
        guest.must("systemctl start registry.service && eci reconcile");
        guest.until_active(tags[after]);
        guest.prints("cd /var/lib/eci-agent/current/ && sha256sum kernel initrd disk-root", &sums[after]);
        guest.must("eci fsck");
    }
}
