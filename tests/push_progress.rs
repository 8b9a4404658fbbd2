//! Progress and summaries of push and pull: on terminals of several widths, and without one.

use nix::pty::Winsize;

use crate::common::image::Image;
use crate::common::pty::OnTerminal;
use crate::common::registry::{Fault, On, Registry};
use crate::common::workstation::Workstation;

const REPO: &str = "edge/nginx";

/// The lines that stood on a terminal, without control sequences.
fn lines(seen: &str) -> Vec<String> {
    let (mut text, mut in_sequence) = (String::new(), false);
    for char in seen.chars() {
        match char {
            '\u{1b}' => in_sequence = true,
            _ if in_sequence => in_sequence = !char.is_ascii_alphabetic(),
            '\r' => text.push('\n'),
            _ => text.push(char),
        }
    }
    // A summary begins in the row after a bar that fills its own.
    let text = text.replace("pushed ", "\npushed ").replace("pulled ", "\npulled ");
    text.lines().map(ToOwned::to_owned).filter(|line| !line.trim().is_empty()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn bars_fit_the_terminal() {
    let registry = Registry::http();
    for columns in [40, 60, 80, 120] {
        let workstation = Workstation::new();
        let name = "a-rather-long-name-of-a-root-disk-that-nobody-would-choose.raw";
        workstation.write(name, vec![1; 3 << 20]);
        let reference = registry.reference(REPO, &format!("v{columns}"));
        for arguments in [vec!["push", "--root", name, &reference], vec!["pull", "--dir", "out", &reference]] {
            let size = Winsize { ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
            let (output, seen) = OnTerminal::start_sized(workstation.command(&arguments), &size).end();
            assert!(output.status.success(), "{seen}");
            let lines = lines(&seen);
            let bars: Vec<_> =
                lines.iter().filter(|line| !line.starts_with("pushed ") && !line.starts_with("pulled ")).collect();
            assert!(bars.iter().any(|line| line.contains("100%") || line.contains("3.00 MiB/3.00 MiB")), "{lines:?}");
            // A bar fills its row with blanks, and the next one begins in the next row: one that wraps would begin it.
            for line in bars {
                let chars: Vec<char> = line.chars().collect();
                for row in chars.chunks(usize::from(columns)) {
                    let row: String = row.iter().collect();
                    let is_begin = ["disk-root", "config", "image"].iter().any(|name| row.starts_with(name));
                    assert!(is_begin, "{columns}: {line:?}");
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn summaries_count_bytes_that_were_there() {
    let (registry, workstation) = (Registry::http(), Workstation::new());
    workstation.write("k", vec![b'k'; 1 << 20]);
    workstation.write("r.raw", vec![b'r'; 3 << 20]);
    let said = |arguments: &[&str]| {
        let output = workstation.eci(arguments);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{said}");
        (String::from_utf8(output.stdout).unwrap(), said)
    };
    for (n, target) in [registry.reference(REPO, "v1"), "oci:layout:v1".to_owned()].iter().enumerate() {
        let (_, summary) = said(&["push", "--kernel", "k", target]);
        assert!(
            summary.starts_with(&format!("pushed {target}: 1.0 MiB in ")) && summary.contains(", 0 B there already"),
            "{summary}"
        );
        let (printed, summary) = said(&["push", "--kernel", "k", "--root", "r.raw", target]);
        assert!(printed.starts_with(&format!("{target}@sha256:")) && printed.lines().count() == 1, "{printed}");
        assert!(
            summary.contains(": 4.0 MiB in ") && summary.contains("3.0 MiB sent, 1.0 MiB there already"),
            "{summary}"
        );
        let dir = n.to_string();
        let (files, summary) = said(&["pull", "--dir", &dir, target]);
        assert!(files.lines().all(|line| line.starts_with(&format!("{dir}/"))), "{files}");
        assert!(summary.starts_with(&format!("pulled {}", printed.trim())), "{summary}");
        assert!(summary.contains("4.0 MiB fetched, 0 B there already"), "{summary}");
    }
    // A pull that broke off has left the config at least.
    let reference = registry.reference(REPO, "v1");
    let image = Image { root: vec![b'r'; 3 << 20], ..Image::new("v1") };
    let root = crate::common::registry::digest(&image.root);
    let gone = registry.inject(On::blobs().reference(&root), Fault::status(404));
    workstation.fails(69, &["pull", "--dir", "broken", &reference]);
    gone.remove();
    let (_, summary) = said(&["pull", "--dir", "broken", &reference]);
    assert!(!summary.contains(", 0 B there already"), "{summary}");
}
