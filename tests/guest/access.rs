//! Leases, and `[cache] access`, in the sandbox of the agent's unit and with the users of the package.

use std::path::Path;

use crate::common::container::Container;
use crate::common::guest::{INSTALL, System};
use crate::common::image::Image;
use crate::common::workstation::Workstation;

const MODES: &str = "
    cd /var/lib/eci-agent
    stat -c '%a %U:%G' . lock leases leases/default/1 cache/. generations/. current/. current/kernel
";
const RESTRICT: &str = "
    printf '[cache]\\naccess = \"group\"\\n' >/etc/eci-agent/agent.d/access.toml
    systemctl restart eci-agent.service
";

#[test]
fn access_is_by_the_packages_group() {
    const TEST: &str = "access_is_by_the_packages_group";
    let station = Workstation::new();
    let arrange = |root: &Path| {
        station.push(&Image::new("v1"), &format!("oci:{}:v1", root.join("srv/images").display()));
    };
    let Some(mut container) = Container::boot(TEST, arrange) else { return };
    container.must(INSTALL);
    container.desire("v1");
    container.until_active("v1");
    let both = "755 eci-agent:eci-agent\n600 eci-agent:eci-agent\n750 eci-agent:eci-vm\n640 eci-agent:eci-vm";
    let everyone = ["755 eci-agent:eci-agent"; 3].join("\n") + "\n444 eci-agent:eci-agent";
    container.prints(MODES, &format!("{both}\n{everyone}"));
    container.must("useradd stranger");
    let boots = |user: &str| format!("cd /; runuser -u {user} -- eci exec default -- cat {{disk-root}}");
    container.prints(&boots("eci-vm"), "root disk of v1");
    let warned = container.must(&boots("stranger"));
    assert!(warned.contains("without a lease") && warned.contains("root disk of v1"), "{warned}");

    container.must(RESTRICT);
    let group = ["750 eci-agent:eci-vm"; 3].join("\n") + "\n440 eci-agent:eci-vm";
    container.prints(MODES, &format!("{both}\n{group}"));
    container.prints(&boots("eci-vm"), "root disk of v1");
    assert_ne!(container.run(&boots("stranger")).code, 0);
    // Another start finds all as it is: neither the agent nor systemd changes it.
    container.must("systemctl restart eci-agent.service");
    container.prints(MODES, &format!("{both}\n{group}"));

    // The kernel's id of the boot is hidden from the unit.
    let mark = "cat /var/lib/eci-agent/leases/_boot";
    container.prints(mark, "none");
    container.must("systemctl stop eci-agent.service 2>&1; rm /var/lib/eci-agent/leases/_boot; eci status >/dev/null");
    let found = container.eventually("marked", |container| Some(container.run(mark)).filter(|answer| answer.code == 0));
    assert!(found.output.starts_with("- "), "{found:?}");

    container.must("gpasswd --delete eci-agent eci-vm && ! systemctl restart eci-agent.service");
    assert!(container.journal().contains("[cache] access = \"group\": the agent's user is not a member"));
    container.must("gpasswd --add eci-agent eci-vm && systemctl restart eci-agent.service");
    container.must("rm /etc/eci-agent/agent.d/access.toml && systemctl restart eci-agent.service");
    let open = ["755 eci-agent:eci-vm"; 3].join("\n") + "\n444 eci-agent:eci-vm";
    container.prints(MODES, &format!("{both}\n{open}"));
}
