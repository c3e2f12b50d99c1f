//! How many came at once. Pure.

/// The most of these moments that lie within less than `window` of each other.
pub(super) fn largest(moments: &mut [u64], window: u64) -> u64 {
    moments.sort_unstable();
    let (mut most, mut first) = (0, 0);
    for (last, moment) in moments.iter().enumerate() {
        while moments[first] + window <= *moment {
            first += 1;
        }
        most = most.max(last - first + 1);
    }
    most as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_slides_over_all_moments() {
        assert_eq!(largest(&mut [], 100), 0);
        assert_eq!(largest(&mut [250, 0, 90, 99, 100, 180], 100), 4, "from 90 to 180");
        assert_eq!(largest(&mut [0, 100, 200], 100), 1);
        assert_eq!(largest(&mut [7, 7, 7], 1), 3);
    }
}
