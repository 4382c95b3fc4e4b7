// Tests of the cuckoo map against std::unordered_map: every fid has its own row, at any load, through growth and reuse.
#include <algorithm>
#include <limits>
#include <random>
#include <set>
#include <unordered_map>

#include "check.hpp"
#include "index/id_map.hpp"

namespace {

using namespace monolith;

using Model = std::unordered_map<int64_t, uint32_t>;

void check_same(const IdMap& map, const Model& model) {
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

void insert(IdMap& map, Model& model, int64_t fid, uint32_t row) {
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
    IdMap map;
    Model model;
    const auto min = std::numeric_limits<int64_t>::min(), max = std::numeric_limits<int64_t>::max();
    CHECK(!map.find(0));
    uint32_t row = 0;
    for (int64_t fid : {int64_t{0}, int64_t{-1}, int64_t{1}, min, min + 1, max, max - 1})
        insert(map, model, fid, row++);
    check_same(map, model);
}

TEST(displacement_fills_every_shard_to_its_limit_and_loses_none) {
    IdMap map;
    Model model;
    for (uint32_t row = 0; row < 300'000; ++row) {
        const int64_t fid = static_cast<int64_t>(row) * 0x10001;
        const Shard& shard = map.shard(map.shard_of(hash_fid(fid)));
        CHECK(shard.size <= shard.limit);
        insert(map, model, fid, row);
        if (row == 100'000) map.expect(1);
    }
    CHECK(map.num_shards() == IdMap::kShards);
    CHECK(static_cast<double>(map.size()) > 0.55 * static_cast<double>(map.capacity()));
    check_same(map, model);
}

TEST(expecting_many_entries_splits_the_map_at_once) {
    IdMap map;
    Model model;
    for (uint32_t row = 0; row < 500; ++row) insert(map, model, -static_cast<int64_t>(row), row);
    CHECK(map.num_shards() == 1);
    map.expect(1'000'000);
    CHECK(map.num_shards() == IdMap::kShards);
    check_same(map, model);
    for (uint32_t row = 500; row < 60'000; ++row) insert(map, model, -static_cast<int64_t>(row), row);
    check_same(map, model);
}

TEST(shards_grow_one_at_a_time) {
    IdMap map;
    map.expect(1'000'000);
    uint32_t row = 0;
    size_t most = 0;
    for (int batch = 0; batch < 200; ++batch) {
        size_t grown = 0;
        std::vector<uint32_t> before(map.num_shards());
        for (size_t i = 0; i < before.size(); ++i) before[i] = map.shard(i).num_buckets;
        for (int i = 0; i < 2'000; ++i, ++row) map.insert(row, row, 0, 0);
        for (size_t i = 0; i < before.size(); ++i) grown += map.shard(i).num_buckets != before[i];
        if (batch > 20) most = std::max(most, grown);
    }
    CHECK(most < IdMap::kShards / 4);
}

TEST(a_map_grows_from_nothing) {
    IdMap map;
    Model model;
    for (uint32_t row = 0; row < 50'000; ++row) insert(map, model, -static_cast<int64_t>(row) * 4096, row);
    check_same(map, model);
    CHECK(map.bytes() >= map.capacity() * 16);
    for (int64_t fid = 1; fid < 4096; ++fid) CHECK(!map.find(fid));
}

TEST(fids_of_the_same_buckets_make_the_map_grow) {
    IdMap map;
    const size_t slots = map.capacity();
    Model model;
    uint32_t row = 0;
    // Both buckets of each fid are among the first three of a new map, which hold twelve fids.
    const Shard first = map.shard(0);
    const BucketFactors factors = map.view().factors;
    for (int64_t fid = 0; row < 30; ++fid) {
        const uint64_t hash = hash_fid(fid);
        if (first_bucket(first, hash, factors) < first.buckets + 3 &&
            second_bucket(first, hash, factors) < first.buckets + 3)
            insert(map, model, fid, row++);
    }
    CHECK(model.size() < slots / 2);
    CHECK(map.capacity() > slots);
    check_same(map, model);
}

// The inverse of an odd number modulo 2^64, by Newton's method.
uint64_t inverse(uint64_t odd) {
    uint64_t x = odd;
    for (int i = 0; i < 6; ++i) x *= 2 - odd * x;
    return x;
}

// The fid of a hash: `mix` backwards.
int64_t fid_of(uint64_t hash) {
    hash ^= hash >> 33;
    hash *= inverse(0xC4CEB9FE1A85EC53ull);
    hash ^= hash >> 33;
    hash *= inverse(0xFF51AFD7ED558CCDull);
    return static_cast<int64_t>(hash ^ hash >> 33);
}

// Anyone can compute fids of neighbouring hashes; without the secret factors nine of them took 28 GiB.
TEST(crafted_fids_of_neighbouring_hashes_take_no_more_memory_than_others) {
    for (uint64_t spacing : {1ull, 1ull << 12, 1ull << 32, 1ull << 40}) {
        IdMap map;
        for (uint64_t i = 0; i < 2'000; ++i) {
            const int64_t fid = fid_of((7ull << 40) + i * spacing);
            CHECK(hash_fid(fid) == (7ull << 40) + i * spacing);
            map.insert(fid, static_cast<uint32_t>(i), 0, 0);
        }
        CHECK(map.size() == 2'000);
        CHECK(map.capacity() < 16'000);
    }
}

TEST(an_erased_fid_is_gone_and_may_come_back) {
    IdMap map;
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
    IdMap map;
    Model model;
    uint32_t next_row = 0;
    for (int step = 0; step < 200'000; ++step) {
        const auto fid = static_cast<int64_t>(random() % 9'000) - 4'500;
        const Slot slot = map.find(fid);
        CHECK(static_cast<bool>(slot) == model.contains(fid));
        const bool filling = (step / 20'000) % 2 == 0;  // fill and thin out in turn
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
