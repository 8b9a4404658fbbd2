//! The file at a path in an image of several layers: from the last layer down, and through links.

use crate::cache::Cache;
use crate::eci::ImagePath;
use crate::oci::Descriptor;
use crate::unpack::{Content, Finding, Record, Want};

/// Longest chain of links, as on Linux.
const MAX_LINKS: usize = 40;

/// The result of a lookup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The file, and the path in the image that it has without links. It is not certain if a layer above is not known.
    Found(Content, ImagePath),
    /// No layer has it.
    Missing(ImagePath),
    /// A link that must not be followed.
    Refused(String),
    /// Not known until more layers are unpacked.
    Unknown,
}

/// Lookups in one image. Blocks.
pub(super) struct PathLookup<'a> {
    cache: &'a Cache,
    /// The layers, the first below all others, and what is known of each.
    layers: &'a [Descriptor],
    records: Vec<Option<Record>>,
}

/// A path on its way through links.
struct Walk {
    /// The path that is looked for.
    path: ImagePath,
    /// The path that its file goes by: another one after a hard link, whose own links count from there.
    name: ImagePath,
    /// Number of layers that are looked at: a hard link leads to what was there when its layer was made.
    layers: usize,
}

/// The result of one pass through the layers.
enum Step {
    Done(Outcome),
    Next(Walk),
}

impl<'a> PathLookup<'a> {
    pub(super) fn new(cache: &'a Cache, layers: &'a [Descriptor]) -> Self {
        Self { cache, layers, records: layers.iter().map(|_| None).collect() }
    }

    /// Looks for the file at `label`. `unknown` is told the layers, by their places, that may have to be unpacked to know, and
    /// the path that is wanted of each.
    pub(super) fn find(&mut self, label: &ImagePath, unknown: &mut impl FnMut(usize, &ImagePath)) -> Outcome {
        let mut walk = Walk { path: label.clone(), name: label.clone(), layers: self.layers.len() };
        for _ in 0..=MAX_LINKS {
            match self.step(walk, unknown) {
                Step::Done(outcome) => return outcome,
                Step::Next(next) => walk = next,
            }
        }
        Outcome::Refused(format!("it leads through more than {MAX_LINKS} links"))
    }

    fn step(&mut self, walk: Walk, unknown: &mut impl FnMut(usize, &ImagePath)) -> Step {
        let (mut is_certain, mut directory) = (true, 0);
        for place in (0..walk.layers).rev() {
            match self.finding(place, &walk.path) {
                None => {
                    unknown(place, &walk.path);
                    is_certain = false;
                }
                Some(Finding::File(content)) => return Step::Done(Outcome::Found(content, walk.path)),
                Some(Finding::Gone) => break,
                Some(Finding::Nothing) => {}
                Some(Finding::Directory(at)) => directory = directory.max(at.as_str().len()),
                // A directory of an upper layer took the place of the link, and nothing of what the link leads to is in it.
                Some(Finding::Symlink { at, .. }) if at.as_str().len() <= directory => break,
                // Where it leads to may be asked of a layer in vain: an upper one may have the file.
                Some(Finding::Symlink { .. } | Finding::HardLink(_)) if !is_certain => {
                    return Step::Done(Outcome::Unknown);
                }
                Some(Finding::Symlink { at, to }) => return walk.through(&at, &to, self.layers.len()),
                Some(Finding::HardLink(path)) => return Step::Next(Walk { path, layers: place + 1, ..walk }),
            }
        }
        Step::Done(if is_certain { Outcome::Missing(walk.path) } else { Outcome::Unknown })
    }

    fn finding(&mut self, place: usize, path: &ImagePath) -> Option<Finding> {
        let (layer, record) = (self.layers.get(place)?, self.records.get_mut(place)?);
        let record = record.get_or_insert_with(|| Record::load(self.cache, layer));
        record.finding(self.cache, &Want::Path(path.clone()))
    }
}

impl Walk {
    /// Follows the symbolic link `at`, which is the path or a directory above it.
    fn through(self, at: &ImagePath, to: &str, all: usize) -> Step {
        let is_hard = self.name != self.path;
        let followed = if *at == self.path { self.name.follow(&self.name, to) } else { self.path.follow(at, to) };
        match followed {
            // The link itself goes by that name, so that it leads on from there, as things are in the whole image.
            Ok(path) if *at == self.path => Step::Next(Self { name: path.clone(), path, layers: all }),
            Ok(path) if is_hard => Step::Next(Self { path, ..self }),
            Ok(path) => Step::Next(Self { name: path.clone(), path, layers: self.layers }),
            Err(error) => {
                let to: String = to.chars().take(100).collect();
                Step::Done(Outcome::Refused(format!("{at} is a link to {to:?}, which {error}")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unpack::{Limits, unpack};
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const MEDIA_TYPE: &str = "application/vnd.oci.image.layer.v1.tar";
    const PATHS: [&str; 7] = ["a", "b", "x", "a/b", "a/x", "b/x", "a/b/x"];

    /// A layer's entry at a path.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Node {
        Directory,
        File(u8),
        Link(&'static str),
        /// The path is removed from lower layers.
        Whiteout,
        /// A directory whose contents are removed from lower layers.
        Opaque,
    }

    type Layer = BTreeMap<&'static str, Node>;

    fn is_below(path: &str, dir: &str) -> bool {
        path.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/'))
    }

    /// Layers as file systems differ: all directories above an entry have entries, and nothing is below a file or a link.
    fn layers() -> impl Strategy<Value = Vec<Layer>> {
        let targets =
            prop::sample::select(vec!["x", "b", "/a", "../b", "/b/x", "b/x", "../x", "/a/b", "../../x", "./x", "a"]);
        let node = prop_oneof![
            2 => any::<u8>().prop_map(Node::File),
            3 => targets.prop_map(Node::Link),
            1 => Just(Node::Whiteout),
            1 => Just(Node::Opaque),
            1 => Just(Node::Directory),
        ];
        let changes = proptest::collection::vec((prop::sample::select(PATHS.to_vec()), node), 1..5);
        let layer = changes.prop_map(|changes| {
            let mut layer = Layer::new();
            for (path, node) in changes {
                let is_leaf = |node: &Node| matches!(node, Node::File(_) | Node::Link(_) | Node::Whiteout);
                let is_in_the_way = |(other, found): (&&str, &Node)| {
                    is_below(path, other) && is_leaf(found) || is_below(other, path) && is_leaf(&node)
                };
                if layer.contains_key(path) || layer.iter().any(is_in_the_way) {
                    continue;
                }
                for dir in PATHS.iter().filter(|dir| is_below(path, dir)) {
                    layer.entry(dir).or_insert(Node::Directory);
                }
                layer.insert(path, node);
            }
            layer
        });
        proptest::collection::vec(layer, 1..5)
    }

    /// A layer as a tar.
    fn tar(layer: &Layer) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        let mut add = |path: &str, kind: u8, link: &str, content: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(tar::EntryType::new(kind));
            header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
            header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
            header.set_size(content.len() as u64);
            header.set_cksum();
            builder.append(&header, content).unwrap();
        };
        for (path, node) in layer {
            let (dir, name) =
                path.rsplit_once('/').map_or((String::new(), *path), |(dir, name)| (format!("{dir}/"), name));
            match node {
                Node::Directory => add(&format!("{path}/"), b'5', "", b""),
                Node::File(content) => add(path, b'0', "", &[*content]),
                Node::Link(target) => add(path, b'2', target, b""),
                Node::Whiteout => add(&format!("{dir}.wh.{name}"), b'0', "", b""),
                Node::Opaque => {
                    add(&format!("{path}/"), b'5', "", b"");
                    add(&format!("{path}/.wh..wh..opq"), b'0', "", b"");
                }
            }
        }
        builder.into_inner().unwrap()
    }

    /// The tree that a layered file system makes of the layers.
    fn tree(layers: &[Layer]) -> Layer {
        let mut tree = Layer::new();
        for layer in layers {
            for (path, node) in layer {
                match node {
                    Node::Whiteout => tree.retain(|other, _| other != path && !is_below(other, path)),
                    Node::Opaque => tree.retain(|other, _| !is_below(other, path)),
                    _ => {}
                }
            }
            for (path, node) in layer {
                match node {
                    Node::Whiteout => {}
                    Node::Directory | Node::Opaque => {
                        tree.insert(path, Node::Directory);
                    }
                    leaf => {
                        tree.retain(|other, _| !is_below(other, path));
                        tree.insert(path, *leaf);
                    }
                }
            }
        }
        tree
    }

    /// The file at `path`, found part by part as a kernel does it; none if there is none, or a link leads out.
    fn resolve(tree: &Layer, path: &str) -> Option<u8> {
        let mut rest: Vec<String> = path.split('/').rev().map(ToOwned::to_owned).collect();
        let (mut at, mut links) = (Vec::<String>::new(), 0);
        while let Some(part) = rest.pop() {
            match part.as_str() {
                "" | "." => continue,
                ".." => {
                    at.pop()?;
                    continue;
                }
                name => at.push(name.to_owned()),
            }
            match tree.get(at.join("/").as_str())? {
                Node::File(content) => return rest.is_empty().then_some(*content),
                Node::Link(target) => {
                    links += 1;
                    at.pop();
                    if target.starts_with('/') {
                        at.clear();
                    }
                    rest.extend(target.split('/').rev().map(ToOwned::to_owned));
                }
                _ => {}
            }
            if links > MAX_LINKS {
                return None;
            }
        }
        None
    }

    /// The file that is found, and the bytes that it has.
    fn find(cache: &Cache, layers: &[Descriptor], label: &ImagePath) -> Option<u8> {
        loop {
            let mut unknown = Vec::new();
            let mut lookup = PathLookup::new(cache, layers);
            let outcome = lookup.find(label, &mut |place, path| unknown.push((place, path.clone())));
            // As a transfer does it: the topmost layer of which something is not known, until all is.
            let Some((place, path)) = unknown.into_iter().max() else {
                return match outcome {
                    Outcome::Found(content, _) => Some(cache.read(&content.digest, 10).unwrap()[0]),
                    Outcome::Missing(_) | Outcome::Refused(_) => None,
                    Outcome::Unknown => panic!("nothing would make it known"),
                };
            };
            let limits = Limits::new(1 << 20);
            if let Err(refused) = unpack(cache, &layers[place], &[Want::Path(path)], limits) {
                assert!(refused.to_string().contains("neither a regular file nor a link"), "{refused}");
                return None;
            }
        }
    }

    proptest! {
        // Each writes to disk, and waits for it.
        #![proptest_config(ProptestConfig::with_cases(150))]

        #[test]
        fn links_lead_where_a_layered_file_system_has_them(layers in layers(), label in prop::sample::select(PATHS.to_vec())) {
            let dir = tempfile::tempdir().unwrap();
            let cache = Cache::open(dir.path()).unwrap();
            let described: Vec<_> = layers
                .iter()
                .map(|layer| {
                    let bytes = tar(layer);
                    cache.insert(&bytes).unwrap();
                    Descriptor::of(MEDIA_TYPE, &bytes)
                })
                .collect();
            let found = find(&cache, &described, &label.parse().unwrap());
            prop_assert_eq!(found, resolve(&tree(&layers), label), "{:?}", tree(&layers));
        }
    }
}
