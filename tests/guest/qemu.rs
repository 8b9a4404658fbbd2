//! The unit of a virtual machine with QEMU itself, in the unit's own sandbox.

use std::path::Path;

use crate::common::container::Container;
use crate::common::disk_image::run;
use crate::common::docker_registry::program;
use crate::common::edge_vm::{Builder, Main};
use crate::common::guest::{INSTALL, System};

/// Puts this machine's QEMU below `$0`, with the parts of it that are files of their own and the libraries that are not there.
const EMULATOR: &str = r#"
set -e
qemu=$(command -v qemu-system-x86_64)
libraries=$(ldd "$qemu" /usr/lib/*-linux-gnu/qemu/accel-tcg-x86_64.so | sed -n 's/.* => \(\/[^ ]*\).*/\1/p' | sort -u)
cp -rLn --parents -t "$0" "$qemu" /usr/lib/*-linux-gnu/qemu /usr/share/qemu /usr/share/seabios /usr/lib/ipxe $libraries
"#;

const SHOWN: &str = "journalctl -q -o cat -t eci -u eci-vm@default.service";
/// As whom its process runs, and what it may do.
const PROCESS: &str = "
    pid=$(systemctl show --value -p MainPID eci-vm@default.service)
    readlink /proc/$pid/exe
    stat -c %U:%G /proc/$pid
    sed -n 's/^\\(CapEff\\|NoNewPrivs\\|Seccomp\\):\\t/\\1 /p' /proc/$pid/status
";

#[test]
fn qemu_boots_what_is_current_in_the_sandbox_of_its_unit_and_hears_of_an_update() {
    const TEST: &str = "qemu_boots_what_is_current_in_the_sandbox_of_its_unit_and_hears_of_an_update";
    let Some(builder) = Builder::found(TEST) else { return };
    let arrange = |root: &Path| {
        run("sh", &["-c", EMULATOR, root.to_str().unwrap()]).unwrap();
        for version in ["v1", "v2"] {
            let image = format!("oci:{}:{version}", root.join("srv/images").display());
            builder.push(&image, &format!("root-disk-of-{version}"), &Main::HearsButton);
        }
    };
    let Some(mut container) = Container::boot(TEST, arrange) else { return };
    container.must(INSTALL);
    container.must("systemctl enable --now eci-vm@default.service eci-vm@default.path");
    let mut boots = |version: &str| {
        container.desire_so(version, "cmdline = \"console=ttyS0 quiet panic=-1 no_timer_check\"\n");
        container.until_active(version);
        let line = format!("root-disk-of-{version}");
        container.eventually(&line, |container| {
            let shown = container.must(SHOWN);
            shown.lines().any(|shown| shown == line).then_some(shown)
        })
    };
    boots("v1");
    let shown = boots("v2");
    let order = ["root-disk-of-v1", "the button is pressed", "root-disk-of-v2"];
    let said: Vec<_> = shown.lines().filter(|line| order.contains(line)).collect();
    assert_eq!(said, order, "{shown}");
    container.prints(
        PROCESS,
        "/usr/bin/qemu-system-x86_64\neci-vm:eci-vm\nCapEff 0000000000000000\nNoNewPrivs 1\nSeccomp 2",
    );
    container.must("systemctl stop eci-vm@default.service");
    container.prints(
        "systemctl show -p Result -p NRestarts -p ActiveState eci-vm@default.service",
        "Result=success\nNRestarts=0\nActiveState=inactive",
    );
}

/// Stands in for a hypervisor: says of devices whether the sandbox lets it open them. One that is not there or has no
/// driver is another matter.
const DEVICES: &str = r#"#!/bin/sh
for device in kvm net/tun vhost-net fuse; do
    said=$(LC_ALL=C sh -c ": <>/dev/$device" 2>&1)
    case $said in *"Operation not permitted"*) echo "no $device" ;; *) echo "may $device" ;; esac
done
"#;
/// Makes the nodes of devices, as udev gives them to their groups.
const MAKE_DEVICES: &str = "
    set -e
    mkdir -p /dev/net
    for node in kvm:232 net/tun:200 vhost-net:238 fuse:229; do
        [ -e /dev/${node%:*} ] || mknod /dev/${node%:*} c 10 ${node#*:}
        chgrp kvm /dev/${node%:*} && chmod 0660 /dev/${node%:*}
    done
";
/// A drop-in by which the unit of a machine runs the stand-in once.
const LOOK: &str = "[Unit]
ConditionPathExists=
[Service]
ExecStartPre=
ExecStart=
ExecStart=/usr/bin/look
ExecStop=
Restart=no
";

/// A machine that only has a network card, on a tap device that belongs to its user.
const TAP_MACHINE: &str = "[Unit]
ConditionPathExists=
[Service]
ExecStart=
ExecStart=/usr/bin/qemu-system-x86_64 -nodefaults -no-user-config \\
    -sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny \\
    -machine q35 -accel tcg -m 64 -S -display none -monitor none \\
    -netdev tap,id=net,ifname=tap0,script=no,downscript=no -device virtio-net-pci,netdev=net,romfile=
ExecStop=
";

#[test]
fn the_sandbox_of_a_machine_has_its_devices_and_no_others() {
    const TEST: &str = "the_sandbox_of_a_machine_has_its_devices_and_no_others";
    if ["ip", "qemu-system-x86_64"].iter().any(|name| program(TEST, name).is_none()) {
        return;
    }
    let arrange = |root: &Path| {
        run("sh", &["-c", EMULATOR, root.to_str().unwrap()]).unwrap();
    };
    let Some(mut container) = Container::boot(TEST, arrange) else { return };
    container.must(INSTALL);
    container.write("/usr/bin/look", DEVICES, "0755");
    container.must(MAKE_DEVICES);
    for unit in ["eci-vm@devices.service", "eci-vm-cloud-hypervisor@devices.service"] {
        container.write(&format!("/etc/systemd/system/{unit}.d/look.conf"), LOOK, "0644");
        container.must(&format!("systemctl daemon-reload && systemctl start {unit}"));
        let state = format!("systemctl show -p ActiveState -p Result {unit}");
        let ended = "Result=success\nActiveState=inactive";
        container.eventually("it has looked", |container| (container.run(&state).output == ended).then_some(()));
        let said = format!("journalctl -q -o cat -t look -u {unit}");
        container.prints(&said, "may kvm\nmay net/tun\nmay vhost-net\nno fuse");
    }

    let user = container.must("id -u eci-vm");
    container.in_network(&["ip", "tuntap", "add", "dev", "tap0", "mode", "tap", "user", &user]);
    container.in_network(&["ip", "link", "set", "dev", "tap0", "up"]);
    container.write("/etc/systemd/system/eci-vm@tap.service.d/tap.conf", TAP_MACHINE, "0644");
    container.must("systemctl daemon-reload && systemctl start eci-vm@tap.service");
    container.eventually("the card is plugged in", |container| {
        (container.run("cat /sys/class/net/tap0/carrier").output == "1").then_some(())
    });
    container.must("systemctl is-active eci-vm@tap.service");
}

/// Changes the links of a workload until that was noticed once more than systemd starts a unit in ten seconds. The second that
/// the unit waits for is not what is tested.
const CHANGES: &str = "
    set -e
    unit=eci-vm-restart@eci-vm@idle.service
    mkdir -p /var/lib/eci-agent/workloads/idle /etc/systemd/system/eci-vm-restart@.service.d
    printf '[Service]\\nExecStartPre=\\n' >/etc/systemd/system/eci-vm-restart@.service.d/at-once.conf
    systemctl daemon-reload
    systemctl start eci-vm@idle.path
    until [ $(journalctl -q -o cat -u $unit | grep -c ^Finished) -ge 6 ]; do
        systemctl is-active -q eci-vm@idle.path || { systemctl status --no-pager eci-vm@idle.path $unit; exit 1; }
        ln -sfn $((n += 1)) /var/lib/eci-agent/workloads/idle/previous
        sleep 0.1
    done
";

#[test]
fn links_that_change_often_are_looked_at_each_time() {
    const TEST: &str = "links_that_change_often_are_looked_at_each_time";
    let Some(mut container) = Container::boot(TEST, |_| ()) else { return };
    container.must(INSTALL);
    container.must(CHANGES);
    // On a machine on which that takes longer than ten seconds, it has shown nothing.
    let limit = "systemctl show -p StartLimitIntervalUSec eci-vm-restart@eci-vm@idle.service";
    container.prints(limit, "StartLimitIntervalUSec=0");
}
