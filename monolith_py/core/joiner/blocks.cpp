// Layout of a block, little-endian: version, task names; numbers of forgotten requests and their ids, or the offsets of
// their impressions; then each changed request: id, times, place and sizes of the impression, numbers, candidates with
// ids of items or marks, their rates, late and early actions.
#include "joiner/blocks.hpp"

#include <algorithm>

#include "bytes/archive.hpp"

namespace monolith::joiner {

namespace {

constexpr uint8_t kVersion = 3;
// A larger block is followed by another, so each stays far below the largest value of a store.
constexpr size_t kBlockBytes = 4 << 20;

void write(Writer& out, const SeenAction& seen) { out.fields(seen.offset, seen.clock_ms, seen.value); }

void write(Writer& out, const Request& request) {
    static const Request::Actions empty;
    const Request::Actions& actions = request.actions ? *request.actions : empty;
    out.fields(request.id, request.time_ms, request.deadline_ms, request.clock_ms, request.offset);
    out.fields(request.impression_bytes, request.shared_bytes, request.num_candidates);
    out.fields(static_cast<uint32_t>(actions.late.size()), static_cast<uint32_t>(actions.early.size()));
    out.field(request.has_marks);
    for (uint32_t row = 0; row < request.num_candidates; ++row) {
        const Request::Candidate& candidate = request.candidates[row];
        out.fields(candidate.item_id, candidate.labels, candidate.status);
    }
    out.field(request.rates != nullptr);
    if (request.rates) out.bytes(request.rates.get(), request.num_candidates * sizeof(double));
    for (const LateAction& late : actions.late) {
        out.field(late.row);
        write(out, late.seen);
    }
    for (const SeenAction& early : actions.early) write(out, early);
}

SeenAction read_action_of(Reader& in, const Rules& rules) {
    SeenAction seen;
    in.fields(seen.offset, seen.clock_ms, seen.value);
    Action action;
    if (!read_action(seen.value, action)) throw BlockError("an action must be whole");
    seen.item_id = action.item_id;
    seen.time_ms = action.time_ms;
    seen.kind = rules.kind_of(action.kind);
    seen.is_positive = action.value > 0;
    seen.number = action.value;
    return seen;
}

// End of the name of a number in a block.
constexpr std::string_view kNumber = " 16";

std::vector<std::string> names_of(const Rules& rules) {
    std::vector<std::string> names = rules.tasks;
    for (size_t task = 0; task < names.size(); ++task)
        if (rules.labels.width(task) > 1) names[task] += kNumber;
    return names;
}

// Task names of a block, and the labels of its requests as those of the rules.
class Tasks {
  public:
    Tasks(const std::vector<std::string>& stored, const Rules& rules) : to_(rules.labels) {
        const std::vector<std::string> tasks = names_of(rules);
        is_same_ = stored == tasks;
        std::vector<uint8_t> widths;
        for (const std::string& name : stored) widths.push_back(name.ends_with(kNumber) ? 16 : 1);
        from_ = LabelLayout(widths);
        for (size_t to = 0; to < tasks.size(); ++to)
            for (size_t from = 0; from < stored.size(); ++from)
                if (stored[from] == tasks[to]) places_.push_back({from, to});
    }
    uint64_t carried(uint64_t labels) const {
        if (is_same_) return labels;
        uint64_t result = 0;
        for (const auto& [from, to] : places_) result |= to_.placed(from_.field(labels, from), to);
        return result;
    }

  private:
    LabelLayout from_;
    const LabelLayout& to_;
    bool is_same_ = false;
    std::vector<std::pair<size_t, size_t>> places_;
};

void read_candidates(Reader& in, Request& request, uint32_t num_candidates, const Tasks& tasks) {
    constexpr size_t kBytes = 2 * sizeof(int64_t) + sizeof(Status);
    if (num_candidates > in.left() / kBytes) throw BlockError("the candidates of a request must be whole");
    request.num_candidates = num_candidates;
    request.candidates = std::make_unique<Request::Candidate[]>(num_candidates);
    for (uint32_t row = 0; row < num_candidates; ++row) {
        Request::Candidate& candidate = request.candidates[row];
        in.fields(candidate.item_id, candidate.labels, candidate.status);
        candidate.labels = tasks.carried(candidate.labels);
    }
    bool has_rates = false;
    in.field(has_rates);
    request.rates = has_rates ? std::make_unique<double[]>(num_candidates) : nullptr;
    if (has_rates) in.bytes(request.rates.get(), num_candidates * sizeof(double));
}

void read_request(Reader& in, uint32_t number, const Rules& rules, const Tasks& tasks, WaitingRequests& waiting) {
    Request& request = waiting.restore(in.value<std::string>());
    uint32_t num_candidates = 0, num_late = 0, num_early = 0;
    in.fields(request.time_ms, request.deadline_ms, request.clock_ms, request.offset, request.impression_bytes);
    in.fields(request.shared_bytes, num_candidates, num_late, num_early, request.has_marks);
    read_candidates(in, request, num_candidates, tasks);
    request.actions.reset();
    for (uint32_t i = 0; i < num_late; ++i) {
        const auto row = in.value<uint32_t>();
        request.waiting_actions().late.push_back({row, read_action_of(in, rules)});
    }
    for (uint32_t i = 0; i < num_early; ++i) request.waiting_actions().early.push_back(read_action_of(in, rules));
    request.state_block = number;
}

}  // namespace

void Blocks::restore(uint32_t number, std::string_view value, const Rules& rules, WaitingRequests& waiting) {
    Reader in(value.data(), value.size(), "block of waiting requests");
    if (const auto version = in.value<uint8_t>(); version != kVersion)
        throw BlockError("block.version must be " + std::to_string(kVersion) + ", got " + std::to_string(version));
    std::vector<std::string> names(in.value<uint8_t>());
    for (std::string& name : names) in.field(name);
    const auto num_forgotten = in.value<uint32_t>();
    for (uint32_t i = 0; i < num_forgotten; ++i) waiting.drop(in.value<std::string>());
    std::vector<int64_t> offsets;
    in.field(offsets);
    for (int64_t offset : offsets) forgotten_.emplace_back(offset, number);
    const Tasks tasks(names, rules);
    while (in.left() > 0) read_request(in, number, rules, tasks, waiting);
    references_[number];
    next_ = std::max(next_, number + 1);
}

void Blocks::restored(WaitingRequests& waiting) {
    waiting.drop_forgotten(std::exchange(forgotten_, {}));
    waiting.for_each([&](const Request& request) { ++references_[request.state_block]; });
    waiting.restored();
}

Blocks::Changes Blocks::changes(const WaitingRequests& waiting, const Rules& rules) {
    Changes result;
    placed_.clear();
    deletes_.clear();
    std::map<uint32_t, uint64_t> released;
    for (uint32_t number : waiting.released()) ++released[number];
    for (const auto& [number, references] : references_) {
        const auto found = released.find(number);
        if (references != (found == released.end() ? 0 : found->second)) break;
        deletes_.push_back(number);
    }
    result.deletes = deletes_;
    Writer out;
    const auto begin = [&](bool is_first) {
        static const std::vector<std::string> no_ids;
        static const std::vector<int64_t> no_offsets;
        const std::vector<std::string>& forgotten = is_first ? waiting.forgotten() : no_ids;
        out.buffer().reserve(std::min(kBlockBytes, 256 * waiting.changed().size()));
        out.field(kVersion);
        out.field(static_cast<uint8_t>(rules.tasks.size()));
        for (const std::string& name : names_of(rules)) out.field(name);
        out.field(static_cast<uint32_t>(forgotten.size()));
        for (const std::string& id : forgotten) out.field(id);
        out.field(is_first ? waiting.forgotten_offsets() : no_offsets);
    };
    const auto end = [&] {
        result.puts.emplace_back(next_ + static_cast<uint32_t>(result.puts.size()), std::move(out.buffer()));
        out.buffer().clear();
    };
    bool is_open = false;
    for (Request* request : waiting.changed()) {
        if (request == nullptr) continue;
        if (!is_open) begin(result.puts.empty());
        is_open = true;
        write(out, *request);
        placed_.push_back({request, next_ + static_cast<uint32_t>(result.puts.size())});
        if (out.buffer().size() < kBlockBytes) continue;
        end();
        is_open = false;
    }
    if (!is_open && result.puts.empty() && !(waiting.forgotten().empty() && waiting.forgotten_offsets().empty())) {
        begin(true);
        is_open = true;
    }
    if (is_open) end();
    num_puts_ = static_cast<uint32_t>(result.puts.size());
    result.stop = next_ + num_puts_;
    result.first = next_;
    for (const auto& [number, references] : references_)
        if (deletes_.empty() || number > deletes_.back()) {
            result.first = number;
            break;
        }
    return result;
}

void Blocks::stored(const WaitingRequests& waiting) {
    for (uint32_t number : waiting.released()) release(number);
    for (uint32_t i = 0; i < num_puts_; ++i) references_[next_ + i];
    for (const auto& [request, number] : placed_) {
        if (request->state_block > 0) release(request->state_block);
        request->state_block = number;
        ++references_[number];
    }
    for (uint32_t number : deletes_) references_.erase(number);
    next_ += num_puts_;
    placed_.clear();
    deletes_.clear();
    num_puts_ = 0;
}

void Blocks::release(uint32_t number) { --references_[number]; }

}  // namespace monolith::joiner
