//! Answers of token services.

use std::time::Duration;

use eci_agent::registry::TokenAnswer;

pub fn fuzz(data: &[u8]) {
    if let Some(answer) = TokenAnswer::parse(data) {
        assert!(!answer.token.trim().is_empty(), "an empty token");
        assert!(answer.lifetime <= Duration::from_secs(7 * 24 * 3600), "{:?}", answer.lifetime);
        let shown = format!("{answer:?}");
        let other = TokenAnswer { token: "another".to_owned(), ..answer };
        assert_eq!(shown, format!("{other:?}"), "it shows the token");
    }
}
