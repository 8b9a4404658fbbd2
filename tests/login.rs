//! `eci login` and `eci logout`, and the files in which commands and the agent look for a login.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::common::agent::{ECI, Node};
use crate::common::image::Image;
use crate::common::registry::{Auth, Registry};
use crate::common::workstation::Workstation;

const REPO: &str = "edge/nginx";
/// `user:s3cret` in base64.
const LOGIN: &str = "dXNlcjpzM2NyZXQ=";
/// `other:pass` in base64.
const OTHER: &str = "b3RoZXI6cGFzcw==";
/// The variables that name credentials files.
const VARIABLES: [&str; 5] =
    ["REGISTRY_AUTH_FILE", "DOCKER_CONFIG", "CREDENTIALS_DIRECTORY", "XDG_RUNTIME_DIR", "HOME"];

fn registry(auth: impl Into<Auth>) -> Registry {
    let registry = Registry::builder().auth(auth).serve();
    Image::new("v1").publish(&registry, REPO, "v1");
    registry
}

fn basic() -> Auth {
    Auth::basic("user", "s3cret")
}

/// A command whose home directory is in the workstation, and that finds no other credentials.
fn command(workstation: &Workstation, arguments: &[&str]) -> Command {
    let mut command = workstation.command(arguments);
    VARIABLES.iter().for_each(|name| {
        command.env_remove(name);
    });
    command.env("HOME", workstation.path("home")).env("XDG_RUNTIME_DIR", workstation.path("run"));
    command
}

fn with_stdin(mut command: Command, text: &str) -> Output {
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().unwrap();
    // A command that refuses does not read.
    let _ = child.stdin.take().unwrap().write_all(text.as_bytes());
    child.wait_with_output().unwrap()
}

fn login(workstation: &Workstation, registry: &str, user: &str, password: &str) -> Output {
    with_stdin(command(workstation, &["login", registry, "-u", user, "--password-stdin"]), password)
}

fn said(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(!said.contains("s3cret") && !said.contains(LOGIN), "{said}");
    said
}

#[track_caller]
fn ends(code: i32, output: &Output) -> String {
    let said = said(output);
    assert_eq!(output.status.code(), Some(code), "{said}");
    said
}

fn pull(workstation: &Workstation, registry: &Registry) -> Output {
    let output = command(workstation, &["pull", "--dir", "out", &registry.reference(REPO, "v1")]).output().unwrap();
    let _ = fs::remove_dir_all(workstation.path("out"));
    output
}

fn json_of(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// A file with one login.
fn auths(host: &str, login: &str) -> String {
    json!({"auths": {host: {"auth": login}}}).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn login_is_tried_saved_and_used() {
    for registry in [registry(basic()), registry(Auth::bearer().login("user", "s3cret"))] {
        let workstation = Workstation::new();
        let file = workstation.path("home/.docker/config.json");
        assert_eq!(pull(&workstation, &registry).status.code(), Some(77));
        let text = ends(0, &login(&workstation, &registry.host(), "user", "s3cret\n"));
        assert!(text.contains("logged in to") && text.contains("base64"), "{text}");
        assert_eq!(json_of(&file), json!({"auths": {registry.host(): {"auth": LOGIN}}}));
        assert_eq!((mode(&file), mode(file.parent().unwrap())), (0o600, 0o700));
        ends(0, &pull(&workstation, &registry));
        let text = ends(0, &command(&workstation, &["logout", &registry.host()]).output().unwrap());
        assert!(text.contains("logged out"), "{text}");
        assert_eq!(json_of(&file), json!({"auths": {}}));
        assert_eq!(pull(&workstation, &registry).status.code(), Some(77));
        let text = ends(0, &command(&workstation, &["logout", &registry.host()]).output().unwrap());
        assert!(text.contains("not logged in"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_login_is_not_saved() {
    for registry in [registry(basic()), registry(Auth::bearer().login("user", "s3cret"))] {
        let workstation = Workstation::new();
        let file = workstation.path("home/.docker/config.json");
        let text = ends(77, &login(&workstation, &registry.host(), "user", "wrong"));
        assert!(text.contains("401") && text.contains("user \"user\"") && text.contains("nothing was saved"), "{text}");
        assert!(!file.exists());
        workstation.write("home/.docker/config.json", auths(&registry.host(), LOGIN));
        ends(77, &login(&workstation, &registry.host(), "other", "wrong"));
        assert_eq!(fs::read_to_string(&file).unwrap(), auths(&registry.host(), LOGIN));
    }
    let workstation = Workstation::new();
    let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    ends(69, &login(&workstation, &unused, "user", "s3cret"));
    assert!(!workstation.path("home").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn login_at_an_open_registry_is_saved_with_a_warning() {
    let (workstation, open) = (Workstation::new(), registry(Auth::Open));
    let text = ends(0, &login(&workstation, &open.host(), "user", "s3cret"));
    assert!(text.contains("without a test"), "{text}");
    assert_eq!(json_of(&workstation.path("home/.docker/config.json"))["auths"][open.host()]["auth"], LOGIN);
}

#[tokio::test(flavor = "multi_thread")]
async fn rest_of_the_file_stays() {
    let (workstation, registry) = (Workstation::new(), registry(basic()));
    let mut content = json!({
        "auths": {"other.example": {"auth": OTHER, "email": "a@b"}, format!("{}/edge/x", registry.host()): {"auth": OTHER}},
        "HttpHeaders": {"X": "y"}, "detachKeys": "ctrl-e,e", "plugins": {"-x-cli-hints": {"enabled": "true"}},
    });
    let file = workstation.write("dotfiles/config.json", content.to_string());
    fs::create_dir_all(workstation.path("home/.docker")).unwrap();
    symlink("../../dotfiles/config.json", workstation.path("home/.docker/config.json")).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    ends(0, &login(&workstation, &registry.host(), "user", "s3cret\r\n"));
    content["auths"][registry.host()] = json!({"auth": LOGIN});
    assert_eq!((json_of(&file), mode(&file)), (content.clone(), 0o600));
    assert!(workstation.path("home/.docker/config.json").is_symlink());
    ends(0, &command(&workstation, &["logout", &registry.host()]).output().unwrap());
    content["auths"].as_object_mut().unwrap().remove(&registry.host());
    assert_eq!(json_of(&file), content);
    for broken in ["{", "[]", "{\"auths\": 7}"] {
        fs::write(&file, broken).unwrap();
        let text = ends(78, &login(&workstation, &registry.host(), "user", "s3cret"));
        assert!(text.contains("config.json") && text.contains("nothing was changed"), "{text}");
        assert_eq!(fs::read_to_string(&file).unwrap(), broken);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn logins_at_the_same_time_are_all_saved() {
    let (workstation, registry) = (Workstation::new(), registry(Auth::Open));
    // One registry has many names on the loopback.
    let port = registry.host().rsplit_once(':').unwrap().1.to_owned();
    let children: Vec<_> = (1..=8)
        .map(|n| {
            let host = format!("127.0.0.1:{}", "0".repeat(n) + &port);
            let mut command = command(&workstation, &["login", &host, "-u", "user", "--password-stdin"]);
            let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            child.stdin.take().unwrap().write_all(b"s3cret").unwrap();
            child
        })
        .collect();
    assert!(children.into_iter().all(|mut child| child.wait().unwrap().success()));
    let saved = json_of(&workstation.path("home/.docker/config.json"));
    assert_eq!(saved["auths"].as_object().unwrap().len(), 8, "{saved}");
}

#[tokio::test(flavor = "multi_thread")]
async fn password_on_the_command_line_is_refused() {
    let (workstation, registry) = (Workstation::new(), registry(basic()));
    let host = registry.host();
    for arguments in [
        ["login", &host, "-u", "user", "-p", "hunter2"].as_slice(),
        &["login", &host, "-u", "user", "--password", "hunter2"],
        &["login", "-u", "user", "--password=hunter2", &host],
        &["login", "-u", "user", "-phunter2", &host],
        &["login", "-u", "user", "-p", &host],
    ] {
        let text = ends(64, &with_stdin(command(&workstation, arguments), ""));
        assert!(text.contains("--password-stdin") && !text.contains("hunter2"), "{text}");
    }
    for (arguments, stdin, why) in [
        (["login", host.as_str(), "-u", "user"].as_slice(), "s3cret", "not a terminal"),
        (&["login", &host, "--password-stdin"], "s3cret", "--username"),
        (&["login", &host, "-u", "a:b", "--password-stdin"], "s3cret", "colon"),
        (&["login", &host, "-u", "user", "--password-stdin"], "\n", "empty"),
        (&["login", "http://a.example", "-u", "user", "--password-stdin"], "s3cret", "https"),
    ] {
        let text = ends(64, &with_stdin(command(&workstation, arguments), stdin));
        assert!(text.contains(why), "{why}: {text}");
    }
    assert_eq!(registry.log().len(), 0);
    assert!(!workstation.path("home").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn password_is_not_shown_on_the_terminal() {
    if !Command::new("script").arg("--version").output().is_ok_and(|output| output.status.success()) {
        println!("SKIP password_is_not_shown_on_the_terminal: script(1) of util-linux is not installed");
        return;
    }
    let (workstation, registry) = (Workstation::new(), registry(basic()));
    let mut terminal = command(&workstation, &[]);
    let environment: Vec<_> =
        terminal.get_envs().map(|(name, value)| (name.to_owned(), value.map(ToOwned::to_owned))).collect();
    terminal = Command::new("script");
    terminal.args(["-q", "-e", "-c", &format!("{ECI} login {}", registry.host()), "/dev/null"]);
    for (name, value) in environment {
        match value {
            Some(value) => terminal.env(name, value),
            None => terminal.env_remove(name),
        };
    }
    let mut child = terminal.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (mut input, mut output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut shown = String::new();
    let mut until = |wanted: &str| {
        let mut byte = [0];
        while !shown.ends_with(wanted) && output.read(&mut byte).unwrap() == 1 {
            shown.push(char::from(byte[0]));
        }
        assert!(shown.ends_with(wanted), "{shown}");
        shown.clone()
    };
    until(&format!("user at {}: ", registry.host()));
    input.write_all(b"user\n").unwrap();
    until("password: ");
    input.write_all(b"s3cret\n").unwrap();
    let shown = until("config.json\r\n");
    assert!(shown.contains("user\r\n") && shown.contains("logged in") && !shown.contains("s3cret"), "{shown}");
    drop(input);
    assert!(child.wait().unwrap().success());
    ends(0, &pull(&workstation, &registry));
}

#[tokio::test(flavor = "multi_thread")]
async fn named_helper_has_the_login() {
    let registry = registry(basic());
    for form in [json!({"credHelpers": {registry.host(): "test"}}), json!({"credsStore": "test"})] {
        let workstation = Workstation::new();
        let store = workstation.path("store");
        let script = format!(
            "#!/bin/sh\ncase $1 in\nstore) cat >{0} ;;\nerase) cat >/dev/null; rm {0} ;;\nget) cat >/dev/null\n\
             if [ -f {0} ]; then cat {0}; else echo credentials not found in native keychain; exit 1; fi ;;\nesac\n",
            store.display()
        );
        let helper = workstation.write("bin/docker-credential-test", script);
        fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).unwrap();
        let file = workstation.write("home/.docker/config.json", form.to_string());
        let path = format!("{}:{}", workstation.path("bin").display(), std::env::var("PATH").unwrap());
        let with_helper = |arguments: &[&str]| {
            let mut command = command(&workstation, arguments);
            command.env("PATH", &path);
            command
        };
        let host = registry.host();
        let logs_in = ["login", &host, "-u", "user", "--password-stdin"];
        let text = ends(0, &with_stdin(with_helper(&logs_in), "s3cret"));
        assert!(text.contains("docker-credential-test") && !text.contains("base64"), "{text}");
        let kept: Value = json_of(&store);
        assert_eq!(kept, json!({"ServerURL": host, "Username": "user", "Secret": "s3cret"}));
        let mut saved = form.clone();
        saved["auths"] = json!({host.clone(): {}});
        assert_eq!(json_of(&file), saved);
        let reference = registry.reference(REPO, "v1");
        ends(0, &with_helper(&["pull", "--dir", "out", &reference]).output().unwrap());
        let text = ends(0, &with_helper(&["logout", &host]).output().unwrap());
        assert!(text.contains("docker-credential-test"), "{text}");
        assert!(!store.exists() && json_of(&file)["auths"] == json!({}));
        // A helper that fails leaves everything as it was.
        fs::write(&helper, "#!/bin/sh\nexit 3\n").unwrap();
        let before = fs::read(&file).unwrap();
        let text = ends(73, &with_stdin(with_helper(&logs_in), "s3cret"));
        assert!(text.contains("docker-credential-test") && text.contains("nothing was changed"), "{text}");
        assert_eq!(fs::read(&file).unwrap(), before);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_searched_in_order() {
    let registry = registry(basic());
    let workstation = Workstation::new();
    let places = [
        ("", "own.json"),
        ("REGISTRY_AUTH_FILE", "auth.json"),
        ("DOCKER_CONFIG", "docker/config.json"),
        ("CREDENTIALS_DIRECTORY", "credentials/config.json"),
        ("XDG_RUNTIME_DIR", "run/containers/auth.json"),
        ("HOME", "home/.docker/config.json"),
    ];
    let pulls = || {
        let mut pull = command(&workstation, &["pull", "--dir", "out", &registry.reference(REPO, "v1")]);
        pull.env("REGISTRY_AUTH_FILE", workstation.path("auth.json"));
        for (name, dir) in [("DOCKER_CONFIG", "docker"), ("CREDENTIALS_DIRECTORY", "credentials")] {
            pull.env(name, workstation.path(dir));
        }
        let output = pull.output().unwrap();
        let _ = fs::remove_dir_all(workstation.path("out"));
        output
    };
    let own = workstation.path("own.json");
    workstation.write("agent.toml", format!("[registry.\"{}\"]\ncredentials = {own:?}\n", registry.host()));
    let text = ends(77, &pulls());
    for (_, file) in places {
        assert!(text.contains(workstation.path(file).to_str().unwrap()), "it says where it looked: {text}");
    }
    assert!(text.contains("there are no credentials") && text.contains("eci login"), "{text}");
    for (n, (variable, file)) in places.iter().enumerate() {
        // Those before have other registries in them, and those after have a wrong login.
        for (m, (_, other)) in places.iter().enumerate() {
            let (host, login) = match m.cmp(&n) {
                std::cmp::Ordering::Less => ("other.example".to_owned(), OTHER),
                std::cmp::Ordering::Equal => (registry.host(), LOGIN),
                std::cmp::Ordering::Greater => (registry.host(), OTHER),
            };
            workstation.write(other, auths(&host, login));
        }
        ends(0, &pulls());
        // And a wrong one is named with its user.
        workstation.write(file, auths(&registry.host(), OTHER));
        let text = ends(77, &pulls());
        let path = workstation.path(file);
        assert!(text.contains("user \"other\"") && text.contains(path.to_str().unwrap()), "{variable}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn login_writes_the_file_that_the_environment_names() {
    let registry = registry(basic());
    for (variables, written) in [
        ([("REGISTRY_AUTH_FILE", "new/dir/auth.json"), ("DOCKER_CONFIG", "docker")].as_slice(), "new/dir/auth.json"),
        (&[("DOCKER_CONFIG", "docker")], "docker/config.json"),
        (&[], "home/.docker/config.json"),
    ] {
        let workstation = Workstation::new();
        let mut login = command(&workstation, &["login", &registry.host(), "-u", "user", "--password-stdin"]);
        login.envs(variables.iter().map(|(name, path)| (name, workstation.path(path))));
        ends(0, &with_stdin(login, "s3cret"));
        assert_eq!(json_of(&workstation.path(written))["auths"][registry.host()]["auth"], LOGIN);
    }
    // A login that another file hides is not said to be in use.
    let workstation = Workstation::new();
    workstation.write("run/containers/auth.json", auths(&registry.host(), OTHER));
    let text = ends(0, &login(&workstation, &registry.host(), "user", "s3cret"));
    assert!(text.contains("warning: ") && text.contains("containers/auth.json is read before"), "{text}");
    let text = ends(0, &command(&workstation, &["logout", &registry.host()]).output().unwrap());
    assert!(text.contains("containers/auth.json still has a login"), "{text}");
    let mut homeless = command(&workstation, &["login", &registry.host(), "-u", "user", "--password-stdin"]);
    homeless.env_remove("HOME");
    assert!(ends(78, &with_stdin(homeless, "s3cret")).contains("$REGISTRY_AUTH_FILE"));
}

#[tokio::test(flavor = "multi_thread")]
async fn agent_has_the_named_files_alone() {
    let registry = registry(basic());
    let mut node = Node::new();
    let home = node.path("home");
    fs::create_dir_all(home.join(".docker")).unwrap();
    fs::write(home.join(".docker/config.json"), auths(&registry.host(), LOGIN)).unwrap();
    let file = node.path("auth.json");
    node.environment =
        vec![("HOME", home), ("XDG_RUNTIME_DIR", node.path("run")), ("REGISTRY_AUTH_FILE", file.clone())];
    node.desire_image(&registry.reference(REPO, "v1"));
    node.start();
    let failed = node.until_failed("unauthorized");
    let text = failed["message"].as_str().unwrap();
    assert!(
        text.contains("there are no credentials") && text.contains("agent.toml") && !text.contains("eci login"),
        "{text}"
    );
    assert!(text.contains(file.to_str().unwrap()) && !text.contains(".docker"), "{text}");
    fs::write(&file, auths(&registry.host(), LOGIN)).unwrap();
    node.until_activated("nginx:v1");
}

#[tokio::test(flavor = "multi_thread")]
async fn file_that_may_not_be_read_is_named() {
    if nix::unistd::geteuid().is_root() {
        // The same as another user.
        let mut node = Node::new();
        if node.unprivileged("file_that_may_not_be_read_is_named").is_none() {
            return;
        }
        let (private, registry) = (node.path("private.json"), registry(basic()));
        fs::write(&private, auths(&registry.host(), LOGIN)).unwrap();
        fs::set_permissions(&private, fs::Permissions::from_mode(0o600)).unwrap();
        node.environment = vec![("REGISTRY_AUTH_FILE", private.clone())];
        node.desire_image(&registry.reference(REPO, "v1"));
        node.start();
        let failed = node.until_failed("forbidden");
        assert!(failed["message"].as_str().unwrap().contains(private.to_str().unwrap()), "{failed}");
        std::os::unix::fs::chown(&private, Some(65534), None).unwrap();
        node.until_activated("nginx:v1");
        return;
    }
    let (workstation, registry) = (Workstation::new(), registry(basic()));
    let private = workstation.write("private.json", auths(&registry.host(), LOGIN));
    fs::set_permissions(&private, fs::Permissions::from_mode(0o0)).unwrap();
    let mut pull = command(&workstation, &["pull", "--dir", "out", &registry.reference(REPO, "v1")]);
    let text = ends(77, &pull.env("REGISTRY_AUTH_FILE", &private).output().unwrap());
    assert!(text.contains(private.to_str().unwrap()), "{text}");
}
