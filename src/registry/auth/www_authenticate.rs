//! Parser of the header `WWW-Authenticate` (RFC 9110, sections 11.2 to 11.6.1).
//!
//! Values are bytes, as HTTP has them. An element outside the grammar is skipped up to the next comma, so that it hides no
//! other challenge.

/// Bytes of one header that are read; the rest is ignored.
const MAX_HEADER: usize = 16 * 1024;

/// One challenge.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::registry) struct RawChallenge {
    /// The authentication scheme, in lower case.
    pub(in crate::registry) scheme: String,
    /// Names in lower case, and values without quotes.
    params: Vec<(String, Vec<u8>)>,
}

impl RawChallenge {
    /// The first parameter of this name. Bytes that are not UTF-8 are replaced.
    pub(in crate::registry) fn param(&self, name: &str) -> Option<String> {
        let (_, value) = self.params.iter().find(|(key, _)| key == name)?;
        Some(String::from_utf8_lossy(value).into_owned())
    }
}

/// The challenges in all header lines of an answer. A line that begins with a parameter continues the line before it
/// (RFC 9110, section 5.3).
pub(in crate::registry) fn parse<'a>(lines: impl Iterator<Item = &'a [u8]>) -> Vec<RawChallenge> {
    let mut challenges = Vec::new();
    for line in lines {
        Line { rest: line.get(..MAX_HEADER).unwrap_or(line) }.parse(&mut challenges);
    }
    challenges
}

/// The rest of one header line.
struct Line<'a> {
    rest: &'a [u8],
}

impl<'a> Line<'a> {
    fn parse(mut self, challenges: &mut Vec<RawChallenge>) {
        loop {
            self.skip(|byte| byte == b',' || is_space(byte));
            if self.rest.is_empty() {
                return;
            }
            let name = self.token();
            let after_name = self.rest;
            self.skip(is_space);
            if name.is_empty() {
                self.skip_element();
            } else if self.eat(b'=') {
                let value = self.value();
                if let (Some(challenge), Some(value)) = (challenges.last_mut(), value) {
                    challenge.params.push((lower(name), value));
                }
            } else {
                // What begins a challenge ends with a space, a comma or the line.
                let is_scheme = after_name.first().is_none_or(|byte| *byte == b',' || is_space(*byte));
                challenges.push(RawChallenge {
                    scheme: if is_scheme { lower(name) } else { String::new() },
                    params: Vec::new(),
                });
                if !is_scheme {
                    self.skip_element();
                } else if let Some(after) = self.after_token68() {
                    self.rest = after;
                }
            }
        }
    }

    /// The rest after a `token68` (`YII=`), if it is the whole element.
    fn after_token68(&self) -> Option<&'a [u8]> {
        let mut line = Self { rest: self.rest };
        let text = line.take(|byte| byte.is_ascii_alphanumeric() || b"-._~+/".contains(&byte));
        line.skip(|byte| byte == b'=');
        line.skip(is_space);
        let is_whole = line.rest.first().is_none_or(|byte| *byte == b',');
        (!text.is_empty() && is_whole).then_some(line.rest)
    }

    /// The value of a parameter, quoted or not. Without quotes, many servers write more than a token: a path or a URL.
    fn value(&mut self) -> Option<Vec<u8>> {
        self.skip(is_space);
        if self.rest.first() != Some(&b'"') {
            return Some(self.take(|byte| byte != b',' && !is_space(byte)).to_vec());
        }
        let quoted = self.quoted();
        if quoted.is_none() {
            self.skip_element();
        }
        quoted
    }

    /// A quoted string, without its quotes and escapes. None, and nothing consumed, if it does not end, or if what follows
    /// shows that a quote before it was left out.
    fn quoted(&mut self) -> Option<Vec<u8>> {
        let mut value = Vec::new();
        let mut bytes = self.rest.iter().enumerate().skip(1);
        while let Some((at, byte)) = bytes.next() {
            match byte {
                b'"' => {
                    let rest = self.rest.get(at + 1..).unwrap_or_default();
                    if rest.first().is_some_and(|byte| *byte != b',' && !is_space(*byte)) {
                        return None;
                    }
                    self.rest = rest;
                    return Some(value);
                }
                b'\\' => value.push(*bytes.next()?.1),
                byte => value.push(*byte),
            }
        }
        None
    }

    /// Skips to the next comma that is not within quotes.
    fn skip_element(&mut self) {
        loop {
            let rest = self.rest;
            let skipped = match rest {
                [] | [b',', ..] => return,
                [b'"', ..] if self.quoted().is_some() => 0,
                [b'\\', b'"', ..] => 2,
                _ => 1,
            };
            self.rest = self.rest.get(skipped..).unwrap_or_default();
        }
    }

    fn token(&mut self) -> &'a [u8] {
        self.take(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
    }

    fn eat(&mut self, wanted: u8) -> bool {
        let rest = self.rest.strip_prefix(&[wanted]);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn skip(&mut self, is_skipped: impl Fn(u8) -> bool) {
        self.take(is_skipped);
    }

    fn take(&mut self, is_taken: impl Fn(u8) -> bool) -> &'a [u8] {
        let end = self.rest.iter().position(|byte| !is_taken(*byte)).unwrap_or(self.rest.len());
        let (taken, rest) = self.rest.split_at(end);
        self.rest = rest;
        taken
    }
}

fn is_space(byte: u8) -> bool {
    byte == b' ' || byte == b'\t'
}

fn lower(token: &[u8]) -> String {
    String::from_utf8_lossy(token).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(lines: &[&[u8]]) -> Vec<RawChallenge> {
        parse(lines.iter().copied())
    }

    /// The challenges in one line, written `scheme name=value …`.
    fn shown(line: &[u8]) -> Vec<String> {
        let show = |challenge: &RawChallenge| {
            let params = challenge.params.iter().map(|(k, v)| format!(" {k}={}", String::from_utf8_lossy(v)));
            challenge.scheme.clone() + &params.collect::<String>()
        };
        parsed(&[line]).iter().map(show).collect()
    }

    #[test]
    fn challenges_of_the_grammar_are_read() {
        let cases: [(&[u8], &[&str]); 12] = [
            (b"Basic", &["basic"]),
            (b"Basic realm=\"x\"", &["basic realm=x"]),
            (b"Negotiate YII=, Basic realm=\"x\"", &["negotiate", "basic realm=x"]),
            (b"Negotiate YII==,Basic realm=x,Negotiate", &["negotiate", "basic realm=x", "negotiate"]),
            (b"Negotiate a/b+c, NTLM ,, Basic", &["negotiate", "ntlm", "basic"]),
            (b" , ,Bearer  realm = \"u\" , service\t=\ts,", &["bearer realm=u service=s"]),
            (b"Bearer , realm=\"u\"", &["bearer realm=u"]),
            (br#"Basic realm="a, Bearer realm=\"b\\\"", X y="""#, &[r#"basic realm=a, Bearer realm="b\""#, "x y="]),
            (
                b"Newauth realm=\"apps\", type=1, title=\"Login to \\\"apps\\\"\", Basic realm=\"simple\"",
                &["newauth realm=apps type=1 title=Login to \"apps\"", "basic realm=simple"],
            ),
            (b"BEARER REALM=\"U\"", &["bearer realm=U"]),
            (b"", &[]),
            (b", ,", &[]),
        ];
        for (line, expected) in cases {
            assert_eq!(shown(line), expected, "{}", String::from_utf8_lossy(line));
        }
    }

    #[test]
    fn unquoted_and_non_ascii_values_are_read() {
        let cases: [(&[u8], &str); 6] = [
            (b"Basic realm=/", "basic realm=/"),
            (
                b"Bearer realm=https://a.example/token?x=1,service=s",
                "bearer realm=https://a.example/token?x=1 service=s",
            ),
            (b"Basic realm=", "basic"),
            ("Basic realm=\"Zugang f\u{fc}r alle\"".as_bytes(), "basic realm=Zugang f\u{fc}r alle"),
            (b"Basic realm=\"f\xfcr\", charset=\"UTF-8\"", "basic realm=f\u{fffd}r charset=UTF-8"),
            (b"Basic realm=f\xfcr", "basic realm=f\u{fffd}r"),
        ];
        for (line, expected) in cases {
            assert_eq!(shown(line), [expected], "{}", String::from_utf8_lossy(line));
        }
    }

    #[test]
    fn unknown_elements_hide_no_challenge() {
        let good = "bearer realm=u";
        let nonsense: [&[u8]; 12] = [
            b"Foo @@",
            b"@@",
            b"\"",
            b"Foo x=\"y",
            b"Foo \"y\"",
            b"Foo/1.0",
            b"\xff\xfe",
            b"Foo x=\"y\\",
            b"=",
            b"=x",
            b"Foo x==",
            b"\"a, b\"",
        ];
        for nonsense in nonsense {
            for line in
                [[nonsense, b",Bearer realm=\"u\""].concat(), [b"Bearer realm=\"u\"," as &[u8], nonsense].concat()]
            {
                assert!(
                    shown(&line).iter().any(|it| it == good),
                    "{}: {:?}",
                    String::from_utf8_lossy(&line),
                    shown(&line)
                );
            }
            for lines in [[nonsense, b"Bearer realm=\"u\""], [b"Bearer realm=\"u\"", nonsense]] {
                assert!(parsed(&lines).iter().any(|it| it.param("realm").as_deref() == Some("u")), "{lines:?}");
            }
        }
        // Commas that are missing, too.
        assert_eq!(
            shown(b"Bearer realm=\"u\" service=\"s\" Basic realm=x"),
            ["bearer realm=u service=s", "basic realm=x"]
        );
        assert_eq!(shown(b"Negotiate Basic realm=x"), ["negotiate", "basic realm=x"]);
    }

    #[test]
    fn lines_are_one_list() {
        let lines: [&[u8]; 3] = [b"Negotiate", b"Bearer realm=\"u\"", b"service=\"s\""];
        let challenges = parsed(&lines);
        assert_eq!(challenges.len(), 2);
        assert_eq!(challenges.last().unwrap().param("service").as_deref(), Some("s"));
        assert!(parsed(&[b"realm=\"u\""]).is_empty());
    }

    proptest! {
        #[test]
        fn any_bytes_end_and_a_good_line_stays(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let good: &[u8] = b"Bearer realm=\"u\",service=\"s\"";
            let alone = parsed(&[good]);
            prop_assert!(parsed(&[&bytes, good]).ends_with(&alone));
            let both = parsed(&[good, &bytes]);
            prop_assert_eq!(&both.first().unwrap().scheme, "bearer");
            prop_assert_eq!(both.first().unwrap().param("realm"), Some("u".to_owned()));
        }

        #[test]
        fn what_is_written_by_the_grammar_is_read_back(
            written in proptest::collection::vec(
                ("[A-Za-z][A-Za-z0-9-]{0,8}", proptest::collection::vec(("[a-z][a-z0-9_]{0,6}", ".{0,12}"), 0..4)),
                0..5,
            )
        ) {
            let quote = |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"");
            let one = |(scheme, params): &(String, Vec<(String, String)>)| {
                let params: Vec<_> = params.iter().map(|(k, v)| format!("{k}=\"{}\"", quote(v))).collect();
                format!("{scheme} {}", params.join(", "))
            };
            let line = written.iter().map(one).collect::<Vec<_>>().join(", ");
            let expected: Vec<_> = written
                .iter()
                .map(|(scheme, params)| RawChallenge {
                    scheme: scheme.to_ascii_lowercase(),
                    params: params.iter().map(|(k, v)| (k.clone(), v.clone().into_bytes())).collect(),
                })
                .collect();
            prop_assert_eq!(parsed(&[line.as_bytes()]), expected);
        }
    }
}
