// Tests of the sort of a batch by row: any number of passes, parts and missing rows gives the order of a stable sort.
#include <algorithm>
#include <random>
#include <vector>

#include "check.hpp"
#include "kernels/kernels.hpp"

namespace {

using namespace monolith;

// Expected result of a sort: the entries of the part, by row, and equal rows in the order of their positions.
std::vector<uint64_t> sorted(const SortJob& job) {
    std::vector<uint64_t> entries;
    for (size_t i = 0; i < job.n; ++i) {
        const uint32_t row = job.rows[i];
        if (row >= kCandidate || (uint64_t{row * 0x9E3779B1u} * job.parts >> 32) != job.part) continue;
        entries.push_back(uint64_t{row} << 32 | (job.sources ? job.sources[i] : i));
    }
    std::stable_sort(entries.begin(), entries.end(), [](uint64_t a, uint64_t b) { return a >> 32 < b >> 32; });
    return entries;
}

void check_sort(size_t n, size_t end, std::mt19937_64& random) {
    std::vector<uint32_t> rows(n), sources(n);
    for (uint32_t& row : rows) row = random() % 8 == 0 ? kNoRow : static_cast<uint32_t>(random() % end);
    for (size_t i = 0; i < n; ++i) sources[i] = static_cast<uint32_t>(i / 3 + 7);
    std::vector<uint64_t> room(2 * n);
    for (const size_t parts : {size_t{1}, size_t{3}})
        for (size_t part = 0; part < parts; ++part)
            for (const uint32_t* of :
                 {static_cast<const uint32_t*>(nullptr), static_cast<const uint32_t*>(sources.data())}) {
                SortJob job{rows.data(), of, n, part, parts, end, room.data(), room.data() + n, 0};
                const uint64_t* const order = kernels().sort_rows(job);
                CHECK(std::vector<uint64_t>(order, order + job.num) == sorted(job));
            }
}

TEST(a_batch_is_sorted_by_row_and_position) {
    const std::string before = simd_level();
    for (const std::string& level : simd_levels()) {
        CHECK(set_simd_level(level));
        std::mt19937_64 random(7);
        for (const size_t n : {0, 1, 9, 300, 5'000})
            for (const size_t end :
                 {size_t{1}, size_t{70}, size_t{4'096}, size_t{1} << 20, size_t{1} << 25, size_t{kCandidate}})
                check_sort(n, end, random);
    }
    CHECK(set_simd_level(before));
}

}  // namespace
