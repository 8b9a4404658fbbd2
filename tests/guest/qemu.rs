//! The unit of a virtual machine with QEMU itself, in the unit's own sandbox.

use std::path::Path;

use crate::common::container::Container;
use crate::common::disk_image::run;
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
