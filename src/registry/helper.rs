//! Credential helpers: programs that docker's `config.json` names, and that keep passwords elsewhere
//! (docker's documentation, "Credential helper protocol").

use std::io::ErrorKind;
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

use super::Login;

/// How long a helper may take: it may have to ask a service.
const TIMEOUT: Duration = Duration::from_secs(30);
/// As much of what it says as is read, in bytes.
const MAX_ANSWER: u64 = 64 * 1024;
/// The user's name that says that the secret is an identity token.
const IDENTITY: &str = "<token>";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: Option<String>,
    secret: Option<String>,
}

/// Asks the helper `name` for the login of `registry`; none where it knows of none. The error says what is wrong, never
/// what the helper said on its standard output.
pub(super) async fn ask(name: &str, registry: &str) -> Result<Option<Login>, String> {
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if name.is_empty() || !name.bytes().all(is_name) {
        return Err(format!("the credential helper {name:?} has no name that a program could have"));
    }
    let program = format!("docker-credential-{name}");
    match tokio::time::timeout(TIMEOUT, run(&program, registry)).await {
        Ok(answer) => answer.map_err(|reason| format!("the credential helper {program} failed: {reason}")),
        Err(_) => Err(format!("the credential helper {program} failed: it does not answer")),
    }
}

async fn run(program: &str, registry: &str) -> Result<Option<Login>, String> {
    let mut command = Command::new(program);
    command.arg("get").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| match error.kind() {
        ErrorKind::NotFound => "there is no such program in $PATH".to_owned(),
        _ => error.to_string(),
    })?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that does not want to know says so by its exit status.
        let _ = stdin.write_all(format!("{registry}\n").as_bytes()).await;
    }
    let mut said = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(MAX_ANSWER).read_to_end(&mut said).await.map_err(|error| error.to_string())?;
    }
    let status = child.wait().await.map_err(|error| error.to_string())?;
    if status.success() {
        // The parser's own message could quote the secret.
        let answer: Answer = serde_json::from_slice(&said).map_err(|_| "it answers with something else".to_owned())?;
        let (username, secret) = (answer.username.unwrap_or_default(), answer.secret.unwrap_or_default());
        return Ok(match username.as_str() {
            "" if secret.is_empty() => None,
            IDENTITY => Some(Login::Identity(secret)),
            _ => Some(Login::Password { username: username.into_bytes(), password: secret.into_bytes() }),
        });
    }
    // It says so on its standard output, and has no other way to.
    let is_unknown = String::from_utf8_lossy(&said).to_ascii_lowercase().contains("credentials not found");
    if is_unknown { Ok(None) } else { Err(format!("it ended with {status}")) }
}
