//! Answers of token services.

use std::time::Duration;

use eci_agent::registry::TokenAnswer;

pub fn fuzz(data: &[u8]) {
    if let Some(answer) = TokenAnswer::parse(data) {
        assert!(!answer.token.trim().is_empty(), "an empty token");
        assert!(answer.lifetime <= Duration::from_secs(7 * 24 * 3600), "{:?}", answer.lifetime);
        assert!(!format!("{answer:?}").contains(&answer.token) || answer.token.len() < 30, "it shows the token");
    }
}
