//! Writing: upload sessions, and the checks on manifests.

use serde_json::json;
use tokio::io::AsyncWriteExt;

use super::super::{Fault, On, Registry, digest};
use super::client::{Answer, Ask};

async fn location(ask: Ask, registry: &Registry) -> String {
    let answer = ask.send(registry).await;
    assert_eq!(answer.status(), 202);
    answer.header("location").unwrap().to_owned()
}

#[tokio::test]
async fn a_blob_is_pushed_chunk_by_chunk() {
    let registry = Registry::http();
    let at = location(Ask::new("POST /v2/edge/nginx/blobs/uploads/").body(b""), &registry).await;
    let at = location(Ask::new(&format!("PATCH {at}")).body(b"hello "), &registry).await;

    let gap = Ask::new(&format!("PATCH {at}")).header("Content-Range", "7-11").body(b"world").send(&registry).await;
    assert_eq!((gap.status(), gap.header("range")), (416, Some("0-5")));
    let next = Ask::new(&format!("PATCH {at}")).header("Content-Range", "6-8").body(b"wor");
    let at = location(next, &registry).await;
    let status = Ask::new(&format!("GET {at}")).send(&registry).await;
    assert_eq!((status.status(), status.header("range")), (204, Some("0-8")));

    let wanted = digest(b"hello world");
    let done = Ask::new(&format!("PUT {at}&digest={}", wanted.replace(':', "%3A"))).body(b"ld").send(&registry).await;
    assert_eq!((done.status(), done.header("docker-content-digest")), (201, Some(wanted.as_str())));
    assert_eq!(registry.blob("edge/nginx", &wanted).unwrap(), "hello world");
    assert_eq!(Ask::new(&format!("GET {at}")).send(&registry).await.status(), 404);
}

#[tokio::test]
async fn a_blob_comes_at_once_or_from_another_repository() {
    let registry = Registry::http();
    let wanted = digest(b"hello");
    let url = format!("POST /v2/edge/nginx/blobs/uploads/?digest={wanted}");
    assert_eq!(Ask::new(&url).body(b"hallo").send(&registry).await.status(), 400);
    assert_eq!(Ask::new(&url).body(b"hello").send(&registry).await.status(), 201);

    let mount = format!("POST /v2/edge/other/blobs/uploads/?mount={wanted}&from=edge%2Fnginx");
    assert_eq!(Ask::new(&mount).body(b"").send(&registry).await.status(), 201);
    assert!(registry.blob("edge/other", &wanted).is_some());
    let in_vain = format!("POST /v2/edge/other/blobs/uploads/?mount={}&from=edge/nginx", digest(b"x"));
    location(Ask::new(&in_vain).body(b""), &registry).await;
}

#[tokio::test]
async fn an_upload_that_breaks_off_keeps_what_came() {
    let registry = Registry::http();
    let at = location(Ask::new("POST /v2/edge/nginx/blobs/uploads/").body(b""), &registry).await;
    let patch = Ask::new(&format!("PATCH {at}")).header("Content-Length", "100");
    let mut stream = patch.open(&registry).await;
    stream.write_all(b"half").await.unwrap();
    stream.shutdown().await.unwrap();
    Answer::read(stream).await;
    let status = Ask::new(&format!("GET {at}")).send(&registry).await;
    assert_eq!((status.status(), status.header("range")), (204, Some("0-3")));
    assert_eq!(Ask::new(&format!("DELETE {at}")).send(&registry).await.status(), 204);
    assert_eq!(Ask::new(&format!("PATCH {at}")).body(b"x").send(&registry).await.status(), 404);
}

#[tokio::test]
async fn a_manifest_is_taken_only_with_all_that_it_names() {
    let registry = Registry::http();
    let layer = digest(b"layer");
    let manifest = json!({"layers": [{"digest": layer}], "subject": {"digest": digest(b"not here")}}).to_string();
    let put = || Ask::new("PUT /v2/edge/nginx/manifests/v1").header("Content-Type", "x/y").body(manifest.as_bytes());
    let refused = put().send(&registry).await;
    assert_eq!((refused.status(), &refused.json()["errors"][0]["detail"]), (400, &json!(layer)));

    registry.put_blob("edge/nginx", "layer");
    let taken = put().send(&registry).await;
    assert_eq!((taken.status(), taken.header("oci-subject")), (201, Some(digest(b"not here").as_str())));
    let stored = registry.manifest("edge/nginx", "v1").unwrap();
    assert_eq!((stored.media_type.as_str(), stored.bytes.as_ref()), ("x/y", manifest.as_bytes()));

    registry.set_referrers_api(false);
    assert_eq!(put().send(&registry).await.header("oci-subject"), None);
}

#[tokio::test]
async fn a_manifest_is_small_json_of_its_own_digest() {
    let registry = Registry::http();
    let large = vec![b' '; (4 << 20) + 1];
    let by_digest = format!("PUT /v2/edge/nginx/manifests/{}", digest(b"{}"));
    let cases = [
        ("PUT /v2/edge/nginx/manifests/v1", large.as_slice(), 413),
        ("PUT /v2/edge/nginx/manifests/v1", b"{", 400),
        (&by_digest, b"{ }", 400),
        (&by_digest, b"{}", 201),
    ];
    for (put, body, status) in cases {
        assert_eq!(Ask::new(put).body(body).send(&registry).await.status(), status);
    }
}

#[tokio::test]
async fn a_push_meets_faults_as_a_pull_does() {
    let registry = Registry::http();
    registry.inject(On::uploads().once(), Fault::status(503));
    let post = || Ask::new("POST /v2/edge/nginx/blobs/uploads/").body(b"");
    assert_eq!(post().send(&registry).await.status(), 503);
    assert_eq!(post().send(&registry).await.status(), 202);
}
