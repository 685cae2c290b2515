pub(crate) mod throttle;
