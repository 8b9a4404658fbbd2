//! The recipes of `docs/formats.md`, as they stand there: what they push is deployed and pulled.

use std::fs;
use std::path::Path;

use super::bench::{Bench, python_with_oras};
use crate::common::docker_registry::program;

/// What the recipes push to.
const REGISTRY: &str = "registry.example.com";
const IMAGE: &str = "edge/nginx:1.4.2";

/// The recipe that is marked `name`, with the registry of a bench in place of the example's.
pub fn recipe(name: &str, bench: &Bench) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/formats.md");
    let text = fs::read_to_string(path).unwrap();
    let is_fence = |line: &&str| line.strip_prefix("```").is_some_and(|mark| mark.ends_with(&format!(" {name}")));
    let lines = text.lines().skip_while(|line| !is_fence(line)).skip(1).take_while(|line| *line != "```");
    let recipe = lines.collect::<Vec<_>>().join("\n");
    assert!(!recipe.is_empty(), "no recipe for {name}");
    recipe.replace(REGISTRY, &bench.registry.host()).replace("/media/usb", bench.path("").to_str().unwrap())
}

fn reference(bench: &Bench) -> String {
    format!("{}/{IMAGE}", bench.registry.host())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_recipe_for_eci_and_the_one_for_a_stick() {
    const TEST: &str = "the_recipe_for_eci_and_the_one_for_a_stick";
    let bench = Bench::new();
    bench.sh(&recipe("eci", &bench));
    bench.is_deployed_and_pulled(&reference(&bench));
    if program(TEST, "skopeo").is_none() {
        return;
    }
    bench.sh(&recipe("skopeo", &bench));
    bench.is_deployed_and_pulled(&format!("oci:{}:nginx-1.4.2", bench.path("images").display()));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_recipe_for_oras() {
    const TEST: &str = "the_recipe_for_oras";
    let Some(python) = python_with_oras(TEST) else { return };
    let bench = Bench::new();
    // The one thing that a registry on loopback without TLS wants to be told.
    bench.python(&python, &recipe("oras", &bench).replace("OrasClient()", "OrasClient(insecure=True)"));
    bench.is_deployed_and_pulled(&reference(&bench));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_recipe_for_buildah() {
    const TEST: &str = "the_recipe_for_buildah";
    let bench = Bench::new();
    if !bench.has_buildah(TEST) {
        return;
    }
    bench.sh(&recipe("buildah", &bench));
    bench.is_deployed_and_pulled(&reference(&bench));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_recipe_for_umoci() {
    const TEST: &str = "the_recipe_for_umoci";
    if program(TEST, "umoci").is_none() || program(TEST, "skopeo").is_none() {
        return;
    }
    let bench = Bench::new();
    bench.sh(&recipe("umoci", &bench));
    bench.is_deployed_and_pulled(&reference(&bench));
}
