//! What a decision depends on beside the state: the clocks, chance and the settings, as values.

use std::time::Duration;

use jiff::Timestamp;

use crate::clock::BootId;
use crate::config::RetrySettings;

/// What the settings say about when to try and to look again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// How often tags are resolved again.
    pub poll: Option<Duration>,
    /// How long to wait after a failure.
    pub retry: RetrySettings,
    /// The time that a workload runs on after the desired state lost its name; none: until an operator retires it.
    pub retire: Option<Duration>,
    /// When what runs is trusted.
    pub health: HealthPolicy,
    /// Whether a hook is asked before an activation.
    pub asks: bool,
    /// Whether hooks are run after an activation.
    pub announces: bool,
}

/// When what runs is trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthPolicy {
    /// How many failed checks in a row it takes to be unhealthy.
    pub threshold: u32,
    /// How long it has to be healthy to be confirmed by that.
    pub healthy_after: Duration,
    /// How often the agent or the machine may start during a probation.
    pub max_attempts: u32,
}

/// What a transition needs besides state and event.
#[derive(Clone, Copy, Debug)]
pub struct Context {
    /// The boot clock, which nobody can set.
    pub now: Duration,
    /// Which boot it is of, where that is known.
    pub boot: Option<BootId>,
    /// The wall clock, for what people read.
    pub wall: Timestamp,
    /// When the window for activations opens; none while it is open.
    pub opens_in: Option<Duration>,
    /// A random number from 0 up to 1.
    pub chance: f64,
    /// The settings.
    pub policy: Policy,
}
