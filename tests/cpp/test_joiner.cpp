// Tests of the joiner of one partition: what the tests in Python cannot reach, under the sanitizers. Its rules are held
// to the state machine in Python by tests/unit/streaming/joiner/test_core_joiner.py.
#include <algorithm>
#include <map>
#include <random>
#include <string>
#include <unordered_map>

#include "check.hpp"
#include "joiner/blake2b.hpp"
#include "joiner/partition.hpp"
#include "joiner/records.hpp"

namespace {

using namespace monolith;
using namespace monolith::joiner;

constexpr int64_t kNow = 1'700'000'000'000;

// Writer of protobuf's wire format.
struct Message {
    std::string bytes;
    void varint(uint64_t value) {
        for (; value >= 128; value >>= 7) bytes.push_back(static_cast<char>(value | 128));
        bytes.push_back(static_cast<char>(value));
    }
    template <typename T>
    void raw(T value) {
        bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
    }
    Message& number(int field, uint64_t value) {
        varint(static_cast<uint64_t>(field) * 8);
        varint(value);
        return *this;
    }
    Message& text(int field, std::string_view value) {
        varint(static_cast<uint64_t>(field) * 8 + 2);
        varint(value.size());
        bytes.append(value);
        return *this;
    }
    Message& item(int field, int64_t value) {
        varint(static_cast<uint64_t>(field) * 8 + 1);
        raw(value);
        return *this;
    }
};

std::string fids(const std::vector<int64_t>& values) {
    return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(int64_t)};
}

std::string impression(std::string_view id, int64_t time_ms, const std::vector<int64_t>& items) {
    Message shared, candidates, message;
    shared.text(1, Message{}.text(1, "user").text(2, fids({7})).bytes);
    std::vector<int64_t> tags;
    Message lengths;
    for (size_t row = 0; row < items.size(); ++row) {
        lengths.varint(row % 3);
        tags.insert(tags.end(), row % 3, items[row]);
    }
    Message column;
    column.text(1, "tags");
    if (!tags.empty()) column.text(2, fids(tags));
    candidates.text(1, column.text(3, lengths.bytes).bytes);
    return message.text(1, id)
        .number(2, static_cast<uint64_t>(time_ms))
        .text(4, fids(items))
        .text(5, shared.bytes)
        .text(6, candidates.bytes)
        .bytes;
}

std::string action(std::string_view id, std::string_view kind, int64_t time_ms, int64_t item) {
    return Message{}.text(1, id).item(2, item).text(3, kind).number(4, static_cast<uint64_t>(time_ms)).bytes;
}

Settings settings() {
    Settings settings;
    settings.rules.tasks = {"is_click", "is_like"};
    settings.rules.labels = LabelLayout({1, 1});
    settings.rules.kinds = {{"click", 1, false, false}, {"like", 2, false, false}, {"end", 0, true, false}};
    settings.rules.window_ms = 100'000;
    settings.rules.allowed_lateness_ms = 50'000;
    settings.num_ahead = 8;
    settings.idle_timeout_s = 1e9;
    settings.max_skew_ms = 60'000;
    return settings;
}

Judgement refuse(std::string_view) { return {false, "malformed"}; }

using Values = std::vector<std::string>;

void push(Partition& partition, InputTopic topic, const Values& values, int64_t first_offset = 0) {
    std::vector<std::pair<int64_t, std::string_view>> records;
    for (const std::string& value : values) records.emplace_back(first_offset++, value);
    partition.push(topic, records, 1'000'000, kNow + 1'000'000, refuse);
    partition.note_read(topic, 0.0);
}

TEST(a_digest_is_that_of_hashlib_for_one_block_and_for_several) {
    CHECK(blake2b_64("", "negative sample") == 0xA3C0B98098602278);
    CHECK(blake2b_64("abc", "negative sample") == 0x97449E2543479431);
    CHECK(blake2b_64(std::string(128, 'a'), "negative sample") == 0x645A37C8DD495DA8);
    CHECK(blake2b_64(std::string(129, 'a'), "negative sample") == 0x9E8DDF6F2B83ABFD);
    CHECK(blake2b_64(std::string(300, 'a'), "negative sample") == 0x12719A8536FF854A);
}

TEST(text_of_several_bytes_a_character_is_counted_and_malformed_text_is_none) {
    CHECK(num_chars("abc") == 3);
    CHECK(num_chars("h\xC3\xB6r") == 3);
    CHECK(num_chars("\xE4\xB8\xAD\xF0\x9F\x98\x80") == 2);
    for (const char* text :
         {"\x80", "\xC0\xAF", "\xC3", "\xE0\x80\x80", "\xED\xA0\x80", "\xF4\x90\x80\x80", "\xF5", "\xE4\xB8"})
        CHECK(num_chars(text) == SIZE_MAX);
}

TEST(every_cut_of_a_record_is_refused_or_read_without_reading_past_its_end) {
    FeatureRules rules({});
    for (const std::string& whole : {impression("request-1", kNow, {1, 2, 3}), action("request-1", "click", kNow, 2)}) {
        for (size_t size = 0; size <= whole.size(); ++size) {
            const std::vector<char> cut(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size));
            const std::string_view view(cut.data(), cut.size());
            Impression one;
            Action other;
            if (read_impression(view, one)) rules.hold(one);
            read_action(view, other);
        }
    }
}

TEST(broken_bytes_of_a_record_are_never_read_past_its_end) {
    std::mt19937 random(1);
    FeatureRules rules({{"age", 2}});
    const std::string whole = impression("request-1", kNow, {1, 2, 3, 4});
    for (int i = 0; i < 20'000; ++i) {
        std::vector<char> bytes(whole.begin(), whole.end());
        for (int change = 0; change < 3; ++change) bytes[random() % bytes.size()] = static_cast<char>(random());
        Impression one;
        if (!read_impression({bytes.data(), bytes.size()}, one) || !rules.hold(one)) continue;
        Rows rows;
        for (uint32_t row = 0; row < one.num_candidates(); ++row) rows.rows.push_back(row);
        rows.note_run();
        FeatureColumns columns(rules.widths(), nullptr, 4);
        columns.add(one, rows);
        columns.finish();
    }
}

TEST(the_map_of_requests_finds_each_after_any_order_of_insertions_and_deletions) {
    std::mt19937 random(2);
    RequestMap map;
    std::unordered_map<std::string, const Request*> model;
    for (int i = 0; i < 50'000; ++i) {
        const std::string id = "request-" + std::to_string(random() % 2000);
        if (random() % 2) {
            model[id] = &map.insert(id);
        } else if (const auto found = model.find(id); found != model.end()) {
            map.erase(*found->second);
            model.erase(found);
        }
        CHECK(map.size() == model.size());
    }
    for (const auto& [id, request] : model) CHECK(map.find(id) == request && request->id == id);
    size_t visited = 0;
    map.for_each([&](const Request&) { ++visited; });
    CHECK(visited == model.size());
    CHECK(map.find("request-x") == nullptr);
}

TEST(due_times_come_in_order_after_any_changes) {
    std::mt19937 random(3);
    std::vector<Request> requests(500);
    DueTimes times;
    std::map<std::pair<int64_t, std::string>, Request*> model;
    const auto key = [&](Request& request) { return std::pair(times.of(request), request.id); };
    for (size_t i = 0; i < requests.size(); ++i) requests[i].id = std::to_string(i);
    for (int i = 0; i < 20'000; ++i) {
        Request& request = requests[random() % requests.size()];
        if (request.place != UINT32_MAX) model.erase(key(request));
        if (random() % 3) {
            times.set(request, static_cast<int64_t>(random() % 50));
            model[key(request)] = &request;
        } else {
            times.remove(request);
        }
        CHECK(times.empty() == model.empty());
        if (!model.empty())
            CHECK(&times.first() == model.begin()->second && times.first_ms() == model.begin()->first.first);
    }
}

TEST(blocks_give_the_state_back_and_are_deleted_once_nothing_needs_them) {
    std::map<uint32_t, std::string> store;
    std::unique_ptr<Partition> partition;
    const auto open = [&](const WatermarkState& state, std::array<int64_t, kNumInputs> offsets) {
        partition = std::make_unique<Partition>(settings(), state, offsets, 0.0);
        for (const auto& [number, value] : store) partition->restore_block(number, value);
        partition->restored();
    };
    const auto commit = [&] {
        const Blocks::Changes changes = partition->changes();
        for (const auto& [number, value] : changes.puts) store[number] = value;
        for (uint32_t number : changes.deletes) store.erase(number);
        partition->clear_step();
    };
    open({}, {0, 0});
    size_t examples = 0;
    for (int64_t step = 0; step < 40; ++step) {
        const std::string id = "a-request-with-a-long-id-" + std::to_string(step);
        push(*partition, kImpressions, {impression(id, kNow + step * 20'000, {1, 2, 3})}, step);
        push(*partition, kActions, {action(id, "click", kNow + step * 20'000, 2)}, step);
        partition->run(0.0, kNow + 1'000'000);
        examples += partition->waiting().outcome().emissions.size();
        commit();
        CHECK(store.size() <= 12);
        const size_t num_requests = partition->waiting().num_requests();
        const int64_t num_waiting = partition->waiting().num_waiting();
        open(partition->watermark(), partition->offsets());
        CHECK(partition->waiting().num_requests() == num_requests && partition->waiting().num_waiting() == num_waiting);
    }
    while (partition->close_some(true)) {
    }
    examples += partition->waiting().outcome().emissions.size();
    CHECK(examples == 40 * 3);
}

TEST(a_damaged_block_is_refused) {
    Partition partition(settings(), {}, {0, 0}, 0.0);
    push(partition, kActions, {action("r", "click", kNow, 1)});
    push(partition, kImpressions, {impression("q", kNow, {1, 2})});
    partition.run(0.0, kNow);
    const std::string block = partition.changes().puts.front().second;
    for (size_t size = 0; size < block.size(); ++size) {
        Partition other(settings(), {}, {0, 0}, 0.0);
        try {
            other.restore_block(1, std::string_view(block).substr(0, size));
        } catch (const std::runtime_error&) {
            continue;
        }
        other.restored();
        CHECK(other.waiting().num_requests() < 2);  // cut between two requests
    }
}

TEST(a_record_batch_is_as_long_as_it_says) {
    Partition partition(settings(), {}, {0, 0}, 0.0);
    Values values;
    for (int i = 0; i < 300; ++i) values.push_back(impression("r" + std::to_string(i), kNow, {1, 2, 3, 4}));
    push(partition, kImpressions, values);
    push(partition, kActions, {});
    partition.run(0.0, kNow);
    partition.close_some(true);
    std::vector<const Emission*> written;
    for (const Emission& emission : partition.waiting().outcome().emissions) written.push_back(&emission);
    CHECK(written.size() == 1200);
    const Widths widths;
    for (size_t num : {size_t{1}, size_t{5}, size_t{256}, written.size()}) {
        const ExampleColumns columns(written.data(), num, partition.settings().rules.tasks, widths,
                                     partition.settings().rules.labels);
        std::vector<char> out(columns.write(nullptr));
        CHECK(columns.write(out.data()) == out.size() && out.size() % 8 == 0);
    }
}

}  // namespace
