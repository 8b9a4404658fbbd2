//! Credential helpers: programs that docker's `config.json` names, and that keep passwords elsewhere
//! (docker's documentation, "Credential helper protocol").

use std::io::ErrorKind;
use std::process::Stdio;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

use super::Login;
use crate::oci::is_docker_hub;

/// The name under which docker keeps the login for Docker Hub.
pub(super) const HUB_LOGIN: &str = "https://index.docker.io/v1/";
/// How long a helper may take: it may have to ask a service.
const TIMEOUT: Duration = Duration::from_secs(30);
/// As much of what it says as is read, in bytes.
const MAX_ANSWER: u64 = 64 * 1024;
/// Start of every helper's program name.
const PREFIX: &str = "docker-credential-";
/// The user's name that says that the secret is an identity token.
const IDENTITY: &str = "<token>";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: Option<String>,
    secret: Option<String>,
}

/// A login in the form in which a helper stores it.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Entry<'a> {
    #[serde(rename = "ServerURL")]
    server: &'a str,
    username: &'a str,
    secret: &'a str,
}

/// The name under which docker keeps the login for `registry` (`HOST[:PORT]`).
pub(super) fn server(registry: &str) -> &str {
    if is_docker_hub(registry) { HUB_LOGIN } else { registry }
}

/// Asks the helper `name` for the login of `server`; none if it knows none. The error says what is wrong, never
/// what the helper said on its standard output.
pub(super) async fn get(name: &str, server: &str) -> Result<Option<Login>, String> {
    let answer = match call(name, "get", &format!("{server}\n")).await? {
        Answered::Ok(answer) => answer,
        Answered::Unknown => return Ok(None),
    };
    // The parser's own message could quote the secret.
    let answer: Answer = serde_json::from_slice(&answer)
        .map_err(|_| format!("the credential helper {PREFIX}{name} failed: it answers with something else"))?;
    let (username, secret) = (answer.username.unwrap_or_default(), answer.secret.unwrap_or_default());
    Ok(match username.as_str() {
        "" if secret.is_empty() => None,
        IDENTITY => Some(Login::Identity(secret)),
        _ => Some(Login::Password { username: username.into_bytes(), password: secret.into_bytes() }),
    })
}

/// Has the helper `name` store a login for `server`.
pub(super) async fn store(name: &str, server: &str, username: &str, password: &str) -> Result<(), String> {
    let entry = Entry { server, username, secret: password };
    let entry = serde_json::to_string(&entry).map_err(|error| error.to_string())?;
    call(name, "store", &entry).await.map(|_| ())
}

/// Has the helper `name` forget the login for `server`; false if it knew none.
pub(super) async fn erase(name: &str, server: &str) -> Result<bool, String> {
    Ok(matches!(call(name, "erase", &format!("{server}\n")).await?, Answered::Ok(_)))
}

/// The end of a call that did not fail.
enum Answered {
    /// The helper's standard output.
    Ok(Vec<u8>),
    /// The helper knows no login for the server.
    Unknown,
}

async fn call(name: &str, action: &str, input: &str) -> Result<Answered, String> {
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if name.is_empty() || !name.bytes().all(is_name) {
        return Err(format!("the credential helper {name:?} has no name that a program could have"));
    }
    let program = format!("{PREFIX}{name}");
    match tokio::time::timeout(TIMEOUT, run(&program, action, input)).await {
        Ok(answer) => answer.map_err(|reason| format!("the credential helper {program} failed: {reason}")),
        Err(_) => Err(format!("the credential helper {program} failed: it does not answer")),
    }
}

async fn run(program: &str, action: &str, input: &str) -> Result<Answered, String> {
    let mut command = Command::new(program);
    command.arg(action).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| match error.kind() {
        ErrorKind::NotFound => "there is no such program in $PATH".to_owned(),
        _ => error.to_string(),
    })?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that does not want to know says so by its exit status.
        let _ = stdin.write_all(input.as_bytes()).await;
    }
    let mut said = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(MAX_ANSWER).read_to_end(&mut said).await.map_err(|error| error.to_string())?;
    }
    let status = child.wait().await.map_err(|error| error.to_string())?;
    if status.success() {
        return Ok(Answered::Ok(said));
    }
    // It says so on its standard output, and has no other way to.
    let is_unknown = String::from_utf8_lossy(&said).to_ascii_lowercase().contains("credentials not found");
    if is_unknown { Ok(Answered::Unknown) } else { Err(format!("it ended with {status}")) }
}
