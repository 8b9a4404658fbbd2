//! One look at whether a workload is healthy, and what it says where it is not.

use std::process::Command;
use std::time::Duration;

use eci_agent::config::CheckSettings;
use eci_agent::deploy::{Check, check};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket};

const LONG: Duration = Duration::from_secs(120);

/// Looks once at the workload "router"; the error is its text.
async fn look(settings: CheckSettings, timeout: Duration) -> Result<(), String> {
    let check_of = Check::new(&settings, &"router".parse().unwrap());
    check(&check_of, &[("ECI_WORKLOAD", "router".to_owned())], timeout).await.map_err(|error| error.to_string())
}

fn tcp(address: &str) -> CheckSettings {
    CheckSettings::Tcp(address.parse().unwrap())
}

fn http(url: &str) -> CheckSettings {
    CheckSettings::Http(url.parse().unwrap())
}

fn command(argv: &[&str]) -> CheckSettings {
    CheckSettings::Command(argv.iter().map(|&argument| argument.to_owned()).collect())
}

/// Asks by HTTP somebody who answers with `answer`; the second is what was asked.
async fn ask(answer: &'static str, path: &str) -> (Result<(), String>, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}{path}", listener.local_addr().unwrap());
    let server = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut asked = Vec::new();
        while !asked.ends_with(b"\r\n\r\n") {
            asked.push(stream.read_u8().await.unwrap());
        }
        // It may have heard enough.
        let _ = stream.write_all(answer.as_bytes()).await;
        drop(stream);
        String::from_utf8(asked).unwrap()
    };
    let (result, asked) = tokio::join!(look(http(&url), LONG), server);
    // Only once, whatever the answer was.
    assert!(tokio::time::timeout(Duration::ZERO, listener.accept()).await.is_err());
    (result, asked)
}

#[tokio::test]
async fn a_port_is_healthy_while_somebody_listens() {
    for (ip, host) in [("127.0.0.1", "127.0.0.1"), ("127.0.0.1", "localhost"), ("::1", "[::1]")] {
        let ip: std::net::IpAddr = ip.parse().unwrap();
        let socket = if ip.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
        let bound = socket.and_then(|socket| socket.bind((ip, 0).into()).map(|()| socket));
        let Ok(socket) = bound else {
            println!("SKIP health_check::a_port_is_healthy_while_somebody_listens: this machine has no {ip}");
            continue;
        };
        // While it is bound, nobody else listens on that port.
        let address = format!("{host}:{}", socket.local_addr().unwrap().port());
        assert_eq!(look(tcp(&address), LONG).await, Err("connection refused".to_owned()), "{address}");
        let _listener = socket.listen(1).unwrap();
        assert_eq!(look(tcp(&address), LONG).await, Ok(()), "{address}");
    }
}

#[tokio::test]
async fn an_answer_is_healthy_by_its_status() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.0 200 OK\r\n\r\n",
        // A body that never ends is not read.
        "HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n",
        // Nobody goes there.
        "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\n\r\n",
    ] {
        assert_eq!(ask(answer, "/").await.0, Ok(()), "{answer}");
    }
    for (answer, said) in [
        ("HTTP/1.1 503 Service Unavailable\r\n\r\n", "HTTP 503"),
        ("HTTP/1.1 404 Not Found\r\n\r\n", "HTTP 404"),
        ("SSH-2.0-OpenSSH_9.2\r\n", "no answer in HTTP"),
        ("", "no answer in HTTP"),
    ] {
        assert_eq!(ask(answer, "/").await.0, Err(said.to_owned()), "{answer}");
    }
}

#[tokio::test]
async fn what_is_asked_for_names_the_workload() {
    let (result, asked) = ask("HTTP/1.1 200 OK\r\n\r\n", "/health/{workload}?of={workload}").await;
    assert_eq!(result, Ok(()));
    assert!(asked.starts_with("GET /health/router?of=router HTTP/1.1\r\n"), "{asked}");
    assert!(asked.to_lowercase().contains("\r\nhost: 127.0.0.1:"), "{asked}");
}

#[tokio::test]
async fn an_answer_without_end_is_no_answer() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let endless = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nA: ").await.unwrap();
        // Until the other side has had enough.
        while stream.write_all(&[b'a'; 4096]).await.is_ok() {}
    };
    let (result, ()) = tokio::join!(look(http(&url), LONG), endless);
    assert_eq!(result, Err("no answer in HTTP".to_owned()));
}

#[tokio::test]
async fn who_says_nothing_is_not_waited_for() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let short = Duration::from_millis(200);
    assert_eq!(look(http(&url), short).await, Err("no answer after 200ms".to_owned()));
    assert_eq!(look(command(&["/bin/sleep", "100000"]), short).await, Err("no answer after 200ms".to_owned()));
}

#[tokio::test]
async fn a_program_is_healthy_where_it_ends_with_0() {
    let script = |script| command(&["/bin/sh", "-c", script, "sh", "{workload}"]);
    assert_eq!(look(script("test $1 = router && test $ECI_WORKLOAD = router"), LONG).await, Ok(()));
    assert_eq!(look(script("exit 1"), LONG).await, Err("exit status 1".to_owned()));
    let said = look(script("echo looking; echo \"$1 has no link\" >&2; echo; exit 1"), LONG).await;
    assert_eq!(said, Err("exit status 1: router has no link".to_owned()));
    let long = look(script("yes a | tr -d '\\n' | head -c 3000; exit 1"), LONG).await.unwrap_err();
    assert!(long.ends_with("aaa…") && long.chars().count() == "exit status 1: ".len() + 201, "{long}");
    let absent = look(command(&["/absent/program"]), LONG).await;
    assert_eq!(absent, Err("cannot run /absent/program: entity not found".to_owned()));
}

#[tokio::test]
async fn a_unit_is_healthy_while_systemd_says_so() {
    let dir = tempfile::tempdir().unwrap();
    // Written by another process: a file that this one has open, and that any child of it inherits, cannot be run.
    let script = r#"cat >"$0" && chmod 0755 "$0""#;
    let program = dir.path().join("systemctl");
    let fake = "#!/bin/sh\necho \"$@\" >\"${0%/*}/asked\"\ncat \"${0%/*}/state\"\nexit \"$(cat \"${0%/*}/code\")\"\n";
    let written =
        Command::new("/bin/sh").args(["-c", script]).arg(&program).stdin(std::process::Stdio::piped()).spawn();
    let mut written = written.unwrap();
    std::io::Write::write_all(&mut written.stdin.take().unwrap(), fake.as_bytes()).unwrap();
    assert!(written.wait().unwrap().success());

    let path = format!("{}:{}", dir.path().display(), std::env::var("PATH").unwrap());
    let unit = Check::new(&CheckSettings::Unit("eci-vm@{workload}.service".to_owned()), &"router".parse().unwrap());
    for (state, code, expected) in [
        ("active", "0", Ok(())),
        ("activating", "3", Err("exit status 3: activating".to_owned())),
        ("failed", "3", Err("exit status 3: failed".to_owned())),
    ] {
        std::fs::write(dir.path().join("state"), format!("{state}\n")).unwrap();
        std::fs::write(dir.path().join("code"), code).unwrap();
        let looked = check(&unit, &[("PATH", path.clone())], LONG).await.map_err(|error| error.to_string());
        assert_eq!(looked, expected);
        let asked = std::fs::read_to_string(dir.path().join("asked")).unwrap();
        assert_eq!(asked, "is-active -- eci-vm@router.service\n");
    }
}
