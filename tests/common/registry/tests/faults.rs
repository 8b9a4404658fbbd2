//! Every fault, as a client meets it.

use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt;

use super::super::{Auth, Fault, On, Registry};
use super::client::{Answer, Ask, read_body};

/// More than a connection holds in its buffers, and no multiple of a piece.
const LARGE: usize = (8 << 20) + 17;

/// A registry with one blob, and the request for it.
fn registry_with(size: usize) -> (Registry, String) {
    let registry = Registry::http();
    let bytes: Vec<u8> = (0..=250).cycle().take(size).collect();
    let digest = registry.put_blob("edge/nginx", bytes);
    (registry, format!("GET /v2/edge/nginx/blobs/{digest}"))
}

#[tokio::test]
async fn a_fault_strikes_in_its_turns_only() {
    let (registry, get) = registry_with(10);
    let fault = registry.inject(On::blobs().get().skip(1).times(2), Fault::status(503));
    registry.inject(On::blobs().head(), Fault::status(405));
    registry.inject(On::blobs().repo("edge/other"), Fault::Disconnect);
    let mut statuses = Vec::new();
    for _ in 0..4 {
        statuses.push(Ask::new(&get).send(&registry).await.status());
    }
    assert_eq!((statuses, fault.strikes()), (vec![200, 503, 503, 200], 2));
    assert_eq!(Ask::new(&get.replace("GET", "HEAD")).send(&registry).await.status(), 405);

    registry.clear_faults();
    assert_eq!(Ask::new(&get.replace("GET", "HEAD")).send(&registry).await.status(), 200);
}

#[tokio::test]
async fn a_fault_that_ends_a_request_leaves_later_ones_their_turns() {
    let (registry, get) = registry_with(10);
    registry.inject(On::blobs().once(), Fault::too_many_requests(7));
    registry.inject(On::blobs().once(), Fault::Redirect("http://elsewhere/".to_owned()));
    let limited = Ask::new(&get).send(&registry).await;
    assert_eq!((limited.status(), limited.header("retry-after")), (429, Some("7")));
    let redirected = Ask::new(&get).send(&registry).await;
    assert_eq!((redirected.status(), redirected.header("location")), (307, Some("http://elsewhere/")));
    assert_eq!(Ask::new(&get).send(&registry).await.status(), 200);
}

#[tokio::test]
async fn an_injected_401_carries_the_challenge() {
    let registry = Registry::builder().auth(Auth::basic("user", "secret")).serve();
    registry.inject(On::ping(), Fault::status(401));
    let ask = Ask::new("GET /v2/").header("Authorization", "Basic dXNlcjpzZWNyZXQ=");
    let answer = ask.send(&registry).await;
    assert_eq!(answer.status(), 401);
    assert!(answer.header("www-authenticate").unwrap().starts_with("Basic "));
}

#[tokio::test]
async fn a_connection_is_dropped_before_the_answer() {
    let (registry, get) = registry_with(10);
    registry.inject(On::blobs(), Fault::Disconnect);
    assert_eq!(Ask::new(&get).send(&registry).await.status(), 0);
    assert_eq!(registry.log()[0].status(), None);
}

#[tokio::test]
async fn a_connection_is_dropped_at_the_very_byte() {
    let (registry, get) = registry_with(LARGE);
    for at in [0, 1, 65_536, 5_000_001] {
        registry.take_log();
        let fault = registry.inject(On::blobs().once(), Fault::DropAfter(at));
        let answer = Ask::new(&get).send(&registry).await;
        assert_eq!((answer.status(), answer.body.len() as u64), (200, at));
        assert_eq!(registry.body_bytes(&On::blobs()), at);
        assert_eq!(fault.strikes(), 1);
    }
}

#[tokio::test]
async fn a_body_stalls_until_it_is_released() {
    let (registry, get) = registry_with(LARGE);
    let stall = registry.inject(On::blobs().once(), Fault::StallAfter(100_000));
    let mut stream = Ask::new(&get).open(&registry).await;
    read_body(&mut stream, 100_000).await;
    stall.struck(1).await;
    assert_eq!(registry.body_bytes(&On::blobs()), 100_000);
    assert!(stream.try_read(&mut [0]).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock));

    stall.release();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest.len(), LARGE - 100_000);
}

#[tokio::test]
async fn a_gate_lets_requests_through_one_by_one_or_all() {
    let (registry, get) = registry_with(10);
    let gate = registry.inject(On::blobs(), Fault::Hold);
    let streams = [Ask::new(&get).open(&registry).await, Ask::new(&get).open(&registry).await];
    gate.struck(2).await;
    assert!(registry.log().iter().all(|request| request.status().is_none()));

    gate.release_one();
    let [first, second] = streams.map(Answer::read);
    tokio::pin!(first, second);
    let left = tokio::select! {
        answer = &mut first => { assert_eq!(answer.status(), 200); second }
        answer = &mut second => { assert_eq!(answer.status(), 200); first }
    };
    gate.release();
    assert_eq!(left.await.status(), 200);
    assert_eq!(Ask::new(&get).send(&registry).await.status(), 200);
}

#[tokio::test]
async fn bytes_trickle() {
    let (registry, get) = registry_with(10);
    let tick = Duration::from_millis(5);
    registry.inject(On::blobs(), Fault::Trickle(2, tick));
    let begun = Instant::now();
    assert_eq!(Ask::new(&get).send(&registry).await.body.len(), 10);
    assert!(begun.elapsed() >= 4 * tick);
}

#[tokio::test]
async fn a_length_is_promised_that_does_not_come() {
    let (registry, get) = registry_with(LARGE);
    registry.inject(On::blobs().once(), Fault::PromiseMore(5));
    let more = Ask::new(&get).send(&registry).await;
    assert_eq!((more.header("content-length"), more.body.len()), (Some((LARGE + 5).to_string().as_str()), LARGE));
    registry.inject(On::blobs().once(), Fault::PromiseLess(5));
    let less = Ask::new(&get).send(&registry).await;
    assert_eq!((less.header("content-length"), less.body.len()), (Some((LARGE - 5).to_string().as_str()), LARGE - 5));
}

#[tokio::test]
async fn a_byte_is_wrong_in_the_whole_and_in_its_range() {
    let (registry, get) = registry_with(LARGE);
    registry.inject(On::blobs(), Fault::FlipByte(70_000));
    let right = |at: usize| (at % 251) as u8;
    let whole = Ask::new(&get).send(&registry).await.body;
    let wrong: Vec<usize> = (0..LARGE).filter(|at| whole[*at] != right(*at)).collect();
    assert_eq!((wrong, whole[70_000]), (vec![70_000], !right(70_000)));
    let around = Ask::new(&get).header("Range", "bytes=69999-70001").send(&registry).await.body;
    assert_eq!(around, [right(69_999), !right(70_000), right(70_001)]);
    let before = Ask::new(&get).header("Range", "bytes=0-1").send(&registry).await.body;
    assert_eq!(before, [0, 1]);
}

#[tokio::test]
async fn a_body_never_ends() {
    let (registry, get) = registry_with(10);
    registry.inject(On::blobs(), Fault::Endless);
    let mut stream = Ask::new(&get).open(&registry).await;
    read_body(&mut stream, 3 << 20).await;
    assert!(registry.body_bytes(&On::blobs()) > 2 << 20);

    // As Debian's docker-registry does it: not the blob has no end, but the refusal.
    registry.inject(On::blobs(), Fault::status(416));
    let mut stream = Ask::new(&get).open(&registry).await;
    read_body(&mut stream, 3 << 20).await;
    assert_eq!(registry.log()[1].status().unwrap().as_u16(), 416);
}

#[tokio::test]
async fn ranges_are_ignored_or_told_wrongly() {
    let (registry, get) = registry_with(10);
    let ignored = registry.inject(On::blobs().once(), Fault::IgnoreRange);
    let ask = || Ask::new(&get).header("Range", "bytes=2-4").send(&registry);
    let answer = ask().await;
    assert_eq!((answer.status(), answer.body.len(), ignored.strikes()), (200, 10, 1));
    assert_eq!(registry.log()[0].range.as_deref(), Some("bytes=2-4"));

    registry.inject(On::blobs().once(), Fault::ContentRange("bytes 3-5/10".to_owned()));
    let answer = ask().await;
    assert_eq!((answer.status(), answer.header("content-range")), (206, Some("bytes 3-5/10")));
    assert_eq!(answer.body, [2, 3, 4]);
}

#[tokio::test]
async fn a_digest_is_not_told_or_told_wrongly() {
    let (registry, get) = registry_with(10);
    let get = get.replace("GET", "HEAD");
    registry.inject(On::blobs().once(), Fault::NoContentDigest);
    assert_eq!(Ask::new(&get).send(&registry).await.header("docker-content-digest"), None);
    registry.inject(On::blobs().skip(0).once(), Fault::ContentDigest("sha256:00".to_owned()));
    assert_eq!(Ask::new(&get).send(&registry).await.header("docker-content-digest"), Some("sha256:00"));
}

#[tokio::test]
async fn a_manifest_is_padded_and_faults_add_up() {
    let registry = Registry::http();
    registry.put_manifest("edge/nginx", Some("v1"), "x/y", "{}");
    registry.inject(On::manifests(), Fault::PadTo(5 << 20));
    registry.inject(On::manifests().get(), Fault::FlipByte(0));
    let answer = Ask::new("GET /v2/edge/nginx/manifests/v1").send(&registry).await;
    assert_eq!((answer.body.len(), answer.body[0]), (5 << 20, !b'{'));
    let answer = Ask::new("HEAD /v2/edge/nginx/manifests/v1").send(&registry).await;
    assert_eq!(answer.header("content-length"), Some((5 << 20).to_string().as_str()));
}
