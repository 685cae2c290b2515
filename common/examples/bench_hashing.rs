//! Upper bound for `cargo xtask bench auth`: `bench_hashing THREADS SECONDS` computes argon2 hashes
//! on bare threads, with the parameters of a hash made today, and prints the hashes per second. Of
//! our own code it uses only those parameters.

use std::{
    error::Error,
    sync::{Arc, Barrier},
    thread,
    time::{Duration, Instant},
};

use argon2::{Algorithm, Argon2, Block, Params, Version, password_hash::phc};
use common::crypto::{Hasher, Password};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const PASSWORD: &str = "correct horse battery staple";
const SALT: &[u8] = b"sixteen bytes it";

#[tokio::main]
async fn main() -> Outcome<()> {
    let mut args = std::env::args().skip(1);
    let (Some(threads), Some(seconds)) = (args.next(), args.next()) else {
        return Err("usage: bench_hashing THREADS SECONDS".into());
    };
    let (threads, time) = (threads.parse()?, Duration::try_from_secs_f64(seconds.parse()?)?);
    println!("{}", hashes_per_second(&params_of_today().await?, threads, time)?);
    Ok(())
}

/// The parameters with which a new password is hashed now.
async fn params_of_today() -> Outcome<Params> {
    let hash = Hasher::new(1, Duration::from_secs(1))?
        .hash(Password::presented(PASSWORD.to_owned())?)
        .await?;
    let text: String = serde_json::from_value(serde_json::to_value(hash)?)?;
    Ok(Params::try_from(&phc::PasswordHash::new(&text)?)?)
}

fn hashes_per_second(params: &Params, threads: usize, time: Duration) -> Outcome<f64> {
    let start = Arc::new(Barrier::new(threads));
    let hash = |start: Arc<Barrier>, params: Params| move || hash_for(params, &start, time);
    let running: Vec<_> =
        (0..threads).map(|_| thread::spawn(hash(Arc::clone(&start), params.clone()))).collect();
    let mut sum = 0.0;
    for thread in running {
        sum += thread.join().map_err(|_| "a thread panicked")??;
    }
    Ok(sum)
}

/// Hashes per second of one thread. The first hash, which maps the memory, is not counted.
fn hash_for(params: Params, start: &Barrier, time: Duration) -> Result<f64, argon2::Error> {
    let mut memory = vec![Block::new(); params.block_count()];
    let mut output = [0; Params::DEFAULT_OUTPUT_LEN];
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    let mut hash = || {
        argon2.hash_password_into_with_memory(PASSWORD.as_bytes(), SALT, &mut output, &mut memory)
    };
    let warmed = hash();
    // Before returning the error: the other threads wait for this one at the barrier.
    start.wait();
    warmed?;
    let (begun, mut hashes) = (Instant::now(), 0_u32);
    while begun.elapsed() < time {
        hash()?;
        hashes += 1;
    }
    Ok(f64::from(hashes) / begun.elapsed().as_secs_f64())
}
