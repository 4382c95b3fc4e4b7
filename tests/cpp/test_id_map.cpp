// The cuckoo map against std::unordered_map: every fid is found with its own row, at any load, through growth and
// reuse.
#include <limits>
#include <random>
#include <set>
#include <unordered_map>

#include "check.hpp"
#include "id_map.hpp"

namespace {

using namespace monolith;

using Model = std::unordered_map<int64_t, uint32_t>;

void check_same(CuckooMap& map, const Model& model) {
    CHECK(map.size() == model.size());
    for (const auto& [fid, row] : model) {
        const Slot slot = map.find(fid);
        CHECK(slot);
        CHECK(slot.key() == fid);
        CHECK(slot.row() == row);
        CHECK(slot.seen() == static_cast<uint16_t>(row * 3));
        CHECK(slot.count() == static_cast<uint16_t>(row * 5));
    }
    Model visited;
    map.for_each([&](Slot slot) { CHECK(visited.emplace(slot.key(), slot.row()).second); });
    CHECK(visited == model);
}

void insert(CuckooMap& map, Model& model, int64_t fid, uint32_t row) {
    CHECK(!map.find(fid));
    const Slot slot = map.insert(fid, row, static_cast<uint16_t>(row * 3), static_cast<uint16_t>(row * 5));
    CHECK(slot.key() == fid);
    CHECK(slot.row() == row);
    model[fid] = row;
}

TEST(the_hash_maps_no_two_fids_to_one_value_and_spreads_neighbours) {
    std::set<uint64_t> hashes;
    std::vector<int> low_bits(64);
    for (int64_t fid = -32'000; fid < 32'000; ++fid) {
        hashes.insert(hash_fid(fid));
        ++low_bits[hash_fid(fid) & 63];
    }
    CHECK(hashes.size() == 64'000);
    for (int count : low_bits) CHECK(count > 800 && count < 1'200);
}

TEST(any_int64_is_a_fid) {
    CuckooMap map;
    Model model;
    const auto min = std::numeric_limits<int64_t>::min(), max = std::numeric_limits<int64_t>::max();
    CHECK(!map.find(0));
    uint32_t row = 0;
    for (int64_t fid : {int64_t{0}, int64_t{-1}, int64_t{1}, min, min + 1, max, max - 1})
        insert(map, model, fid, row++);
    check_same(map, model);
}

TEST(displacement_fills_a_map_to_its_limit_without_growth_and_loses_none) {
    for (size_t capacity : {1'000, 30'000, 100'000}) {
        CuckooMap map(capacity);
        Model model;
        const size_t slots = map.capacity();
        for (uint32_t row = 0; (row + 1) <= slots * 85 / 100; ++row)
            insert(map, model, static_cast<int64_t>(row) * 0x10001, row);
        CHECK(map.capacity() == slots);
        check_same(map, model);
        insert(map, model, -1, 7);
        CHECK(map.capacity() == 2 * slots);
        check_same(map, model);
    }
}

TEST(a_map_grows_from_nothing) {
    CuckooMap map;
    Model model;
    for (uint32_t row = 0; row < 50'000; ++row) insert(map, model, -static_cast<int64_t>(row) * 4096, row);
    check_same(map, model);
    CHECK(map.bytes() == map.capacity() * 16);
    for (int64_t fid = 1; fid < 4096; ++fid) CHECK(!map.find(fid));
}

TEST(fids_that_all_want_the_same_buckets_make_the_map_grow) {
    CuckooMap map;
    const size_t slots = map.capacity();
    Model model;
    uint32_t row = 0;
    // Of the 16 buckets that a new map has, both of each fid's are among three: room for twelve fids.
    for (int64_t fid = 0; row < 40; ++fid) {
        const uint64_t hash = hash_fid(fid);
        if ((hash & 15) < 3 && ((hash * 0x9E3779B97F4A7C15ull) >> 32 & 15) < 3) insert(map, model, fid, row++);
        if (row <= 12 && row > 0) CHECK(map.find(model.begin()->first));
    }
    CHECK(model.size() < slots * 85 / 100);
    CHECK(map.capacity() > slots);
    check_same(map, model);
}

TEST(an_erased_fid_is_gone_and_may_come_back) {
    CuckooMap map;
    Model model;
    for (uint32_t row = 0; row < 1'000; ++row) insert(map, model, row, row);
    for (int64_t fid = 0; fid < 1'000; fid += 3) {
        map.erase(map.find(fid));
        model.erase(fid);
    }
    check_same(map, model);
    for (int64_t fid = 0; fid < 1'000; fid += 3) {
        CHECK(!map.find(fid));
        insert(map, model, fid, static_cast<uint32_t>(fid) + 5'000);
    }
    check_same(map, model);
}

TEST(a_seeded_random_walk_agrees_with_unordered_map) {
    std::mt19937_64 random(1);
    CuckooMap map;
    Model model;
    uint32_t next_row = 0;
    for (int step = 0; step < 200'000; ++step) {
        const auto fid = static_cast<int64_t>(random() % 9'000) - 4'500;
        const Slot slot = map.find(fid);
        CHECK(static_cast<bool>(slot) == model.contains(fid));
        const bool filling = (step / 20'000) % 2 == 0;  // fill, then thin out, by turns
        if (!slot && (filling || random() % 8 == 0)) {
            insert(map, model, fid, next_row++);
        } else if (slot && (!filling || random() % 8 == 0)) {
            CHECK(slot.row() == model.at(fid));
            map.erase(slot);
            model.erase(fid);
        }
        if (step % 20'000 == 0) check_same(map, model);
    }
    check_same(map, model);
}

}  // namespace
