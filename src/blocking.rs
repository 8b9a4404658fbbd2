//! Work that blocks, away from the threads that everything else shares.

/// Runs `work` on the pool for such work, and waits for it. The pool is small, and whoever finds it full waits: work
/// that lasts for as long as a network pleases has a bound of its own (`transfer` has one on fetches).
pub async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is ending, and this task with it: there is nobody left to tell.
            Err(_) => std::future::pending().await,
        },
    }
}
