// Admission of fids: a sketch counts occurrences of fids without a row in bounded memory; two other rules are
// probabilistic.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "index/hash.hpp"
#include "kernels/settings.hpp"

namespace monolith {

// Occurrences within the last `window_s`, in panes of a quarter of it: a count-min sketch (Cormode and Muthukrishnan
// 2005) with conservative update (Estan and Varghese 2002); all counters of a fid lie in one cache line. Each pane is
// its own sketch, and the answer is the sum of their minima. One minimum over all panes would be wrong: an update that
// spares a cell because of older panes would lose its occurrence with them.
//
// Error: never too low for the current and the three previous panes. Too high by the occurrences of other fids that
// share all three cells: of N occurrences in a window over L lines, each other one falls into the same line with
// probability 1 / L and into a given cell of it with 3/7, so the excess is at most 3 N / (7 L) on average and, by
// Markov's inequality, at least t with a probability of at most 3 N / (7 L t).
//
// Concurrency: fids of different shards of the id map share no line, so threads that own shards may count at the same
// time.
class SlidingSketch {
  public:
    SlidingSketch(uint64_t bytes, int64_t window_s)
        : lines_(std::bit_ceil(std::max<uint64_t>(bytes / sizeof(Line), 256))),
          shift_(63 - std::countr_zero(lines_.size())),
          pane_s_(std::max<int64_t>(1, (window_s + kPanes - 1) / kPanes)) {}

    [[gnu::always_inline]] void prefetch(uint64_t hash) const { __builtin_prefetch(&line(hash), 1); }

    // Count one occurrence; returns the number in the window, including it. Saturates at 65,535.
    uint32_t add(uint64_t hash, int64_t now_s) {
        Line& line = lines_[(hash >> 1) >> shift_];
        advance(line, pane_of(now_s));
        uint32_t cells[kDepth], sum = 0;
        choose(hash, cells);
        const auto least_of = [&](const uint16_t* counts) {
            return std::min({counts[cells[0]], counts[cells[1]], counts[cells[2]]});
        };
        for (const auto& counts : line.counts) sum += least_of(counts);
        // A time before the line's newest pane counts in the newest pane.
        uint16_t* counts = line.counts[place(line.pane)];
        const uint16_t least = least_of(counts);
        for (const uint32_t cell : cells)
            if (counts[cell] == least && least < 0xFFFF) ++counts[cell];
        return std::min<uint32_t>(sum + 1, 0xFFFF);
    }

    size_t bytes() const { return lines_.size() * sizeof(Line); }
    char* data() { return reinterpret_cast<char*>(lines_.data()); }

  private:
    static constexpr int kPanes = 4, kCells = 7, kDepth = 3;
    static constexpr int64_t kMostPane = int64_t{1} << 30;
    struct alignas(64) Line {
        int32_t pane = 0, unused = 0;
        uint16_t counts[kPanes][kCells] = {};
    };
    static_assert(sizeof(Line) == 64);

    const Line& line(uint64_t hash) const { return lines_[(hash >> 1) >> shift_]; }

    int32_t pane_of(int64_t now_s) const {
        const int64_t pane = now_s / pane_s_ - (now_s % pane_s_ < 0);
        return static_cast<int32_t>(std::clamp<int64_t>(pane, -kMostPane, kMostPane));
    }
    static uint32_t place(int32_t pane) { return static_cast<uint32_t>(pane) % kPanes; }
    // A line more than a window ahead of `pane` starts over: its pane was a wrong time, and would never end.
    static void advance(Line& line, int32_t pane) {
        const int64_t steps = int64_t{pane} - line.pane;
        if (steps <= 0 && steps >= -kPanes) return;
        const auto stale = static_cast<int32_t>(steps < 0 ? kPanes : std::min<int64_t>(steps, kPanes));
        for (int32_t k = 0; k < stale; ++k) std::memset(line.counts[place(pane - k)], 0, sizeof line.counts[0]);
        line.pane = pane;
    }

    // Choose three different cells of seven.
    static void choose(uint64_t hash, uint32_t* cells) {
        const uint64_t bits = mix(hash + kGolden);
        const auto pick = [&](int shift, uint32_t n) {
            return static_cast<uint32_t>((bits >> shift & 0xFFFF) * n >> 16);
        };
        cells[0] = pick(0, kCells);
        cells[1] = pick(16, kCells - 1);
        cells[2] = pick(32, kCells - 2);
        if (cells[1] >= cells[0]) ++cells[1];
        const uint32_t low = std::min(cells[0], cells[1]), high = std::max(cells[0], cells[1]);
        if (cells[2] >= low) ++cells[2];
        if (cells[2] >= high) ++cells[2];
    }

    std::vector<Line> lines_;
    int shift_;
    int64_t pane_s_;
};

// Probability of admission in the batch of a fid's `count`-th occurrence, by the two formulas of Monolith's
// probabilistic filter: proportional to the count, or geometric, so that 95 % are admitted within `admit_after`
// occurrences.
inline double admission_probability(Admission admission, uint32_t admit_after, uint32_t count) {
    if (admission == Admission::kProportional) return std::min(1.0, static_cast<double>(count) / admit_after);
    return 1 - std::pow(0.05, static_cast<double>(count) / admit_after);
}

}  // namespace monolith
