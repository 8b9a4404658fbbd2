//! Reading: manifests, ranges of blobs, tags and referrers.

use serde_json::json;

use super::super::{Endpoint, Kind, On, Registry};
use super::client::Ask;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

#[tokio::test]
async fn a_manifest_is_served_by_tag_and_by_digest() {
    let registry = Registry::http();
    let digest = registry.put_manifest("edge/nginx", Some("v1"), MANIFEST, "{}");
    for reference in ["v1", &digest] {
        let answer = Ask::new(&format!("GET /v2/edge/nginx/manifests/{reference}")).send(&registry).await;
        assert_eq!((answer.status(), answer.body.as_slice()), (200, b"{}".as_slice()));
        assert_eq!(answer.header("content-type"), Some(MANIFEST));
        assert_eq!(answer.header("docker-content-digest"), Some(digest.as_str()));
    }
    assert_eq!(registry.reference("edge/nginx", "v1"), format!("{}/edge/nginx:v1", registry.address()));
    assert_eq!(registry.reference("edge/nginx", &digest), format!("{}/edge/nginx@{digest}", registry.address()));
}

#[tokio::test]
async fn head_tells_the_size_and_sends_no_body() {
    let registry = Registry::http();
    let digest = registry.put_blob("edge/nginx", "0123456789");
    let answer = Ask::new(&format!("HEAD /v2/edge/nginx/blobs/{digest}")).send(&registry).await;
    assert_eq!((answer.status(), answer.header("content-length"), answer.body.len()), (200, Some("10"), 0));
    assert_eq!(registry.body_bytes(&On::any()), 0);
}

#[tokio::test]
async fn a_manifest_that_is_not_accepted_is_not_found() {
    let registry = Registry::http();
    registry.put_manifest("edge/nginx", Some("v1"), MANIFEST, "{}");
    let cases = [
        ("application/json", 404),
        ("application/json, application/vnd.oci.image.manifest.v1+json;q=0.5", 200),
        ("*/*", 200),
    ];
    for (accept, status) in cases {
        let ask = Ask::new("GET /v2/edge/nginx/manifests/v1").header("Accept", accept);
        assert_eq!(ask.send(&registry).await.status(), status, "{accept}");
    }
}

#[tokio::test]
async fn a_range_of_a_blob_is_what_was_asked_for() {
    let registry = Registry::http();
    let digest = registry.put_blob("edge/nginx", "0123456789");
    let cases = [
        ("bytes=2-4", 206, Some("bytes 2-4/10"), "234"),
        ("bytes=7-", 206, Some("bytes 7-9/10"), "789"),
        ("bytes=-3", 206, Some("bytes 7-9/10"), "789"),
        ("bytes=8-99", 206, Some("bytes 8-9/10"), "89"),
        ("bytes=4-2", 200, None, "0123456789"),
        ("bytes=0-1,3-4", 200, None, "0123456789"),
        ("lines=0-1", 200, None, "0123456789"),
    ];
    for (range, status, content_range, body) in cases {
        let ask = Ask::new(&format!("GET /v2/edge/nginx/blobs/{digest}")).header("Range", range);
        let answer = ask.send(&registry).await;
        assert_eq!((answer.status(), answer.header("content-range")), (status, content_range), "{range}");
        assert_eq!(answer.body, body.as_bytes(), "{range}");
    }
    for range in ["bytes=10-", "bytes=-0", "bytes=99-100"] {
        let ask = Ask::new(&format!("GET /v2/edge/nginx/blobs/{digest}")).header("Range", range);
        let answer = ask.send(&registry).await;
        assert_eq!((answer.status(), answer.header("content-range")), (416, Some("bytes */10")), "{range}");
    }
}

#[tokio::test]
async fn what_is_removed_is_gone() {
    let registry = Registry::http();
    let blob = registry.put_blob("edge/nginx", "blob");
    let manifest = registry.put_manifest("edge/nginx", Some("v1"), MANIFEST, "{}");
    assert!(registry.remove_blob("edge/nginx", &blob));
    assert!(registry.remove_manifest("edge/nginx", &manifest));
    for path in [format!("blobs/{blob}"), format!("manifests/{manifest}"), "manifests/v1".to_owned()] {
        let answer = Ask::new(&format!("GET /v2/edge/nginx/{path}")).send(&registry).await;
        assert_eq!(answer.status(), 404, "{path}");
    }
}

#[tokio::test]
async fn tags_come_in_pages() {
    let registry = Registry::http();
    for tag in ["v2", "v1", "v3"] {
        registry.put_manifest("edge/nginx", Some(tag), MANIFEST, tag);
    }
    let first = Ask::new("GET /v2/edge/nginx/tags/list?n=2").send(&registry).await;
    assert_eq!(first.json()["tags"], json!(["v1", "v2"]));
    assert_eq!(first.header("link"), Some("</v2/edge/nginx/tags/list?n=2&last=v2>; rel=\"next\""));
    let last = Ask::new("GET /v2/edge/nginx/tags/list?n=2&last=v2").send(&registry).await;
    assert_eq!((last.json()["tags"].clone(), last.header("link")), (json!(["v3"]), None));
}

#[tokio::test]
async fn referrers_are_listed_by_type_or_not_known_at_all() {
    let registry = Registry::http();
    let subject = registry.put_manifest("edge/nginx", None, MANIFEST, "{}");
    for kind in ["signature", "sbom"] {
        let manifest = json!({"artifactType": kind, "subject": {"digest": subject}});
        registry.put_manifest("edge/nginx", None, MANIFEST, manifest.to_string());
    }
    let url = format!("GET /v2/edge/nginx/referrers/{subject}");
    let all = Ask::new(&url).send(&registry).await.json();
    assert_eq!(all["manifests"].as_array().unwrap().len(), 2);
    let some = Ask::new(&format!("{url}?artifactType=sbom")).send(&registry).await;
    assert_eq!(some.json()["manifests"][0]["artifactType"], "sbom");
    assert_eq!(some.json()["manifests"].as_array().unwrap().len(), 1);
    assert_eq!(some.header("oci-filters-applied"), Some("artifactType"));

    registry.set_referrers_api(false);
    assert_eq!(Ask::new(&url).send(&registry).await.status(), 404);
}

#[test]
fn a_path_is_read_from_its_end() {
    let cases = [
        ("/v2/", Kind::Ping, "", ""),
        ("/token", Kind::Token, "", ""),
        ("/v2/a/b/c/manifests/v1", Kind::Manifest, "a/b/c", "v1"),
        ("/v2/blobs/blobs/sha256%3Aab", Kind::Blob, "blobs", "sha256:ab"),
        ("/v2/a/blobs/uploads/", Kind::Upload, "a", ""),
        ("/v2/a/blobs/uploads/upload-1", Kind::Upload, "a", "upload-1"),
        ("/v2/a%2", Kind::Unknown, "", ""),
        ("", Kind::Unknown, "", ""),
    ];
    for (path, kind, repo, reference) in cases {
        let expected = Endpoint { kind, repo: repo.to_owned(), reference: reference.to_owned() };
        assert_eq!(Endpoint::parse(path), expected, "{path}");
    }
}
