#include "base/profile.h"

#include <algorithm>
#include <map>

namespace minke {
namespace {

struct Profile {
  bool on = false;
  std::map<std::string, ProfileEntry> entries;
  Profiled* innermost = nullptr;
};
thread_local Profile t_profile;

}  // namespace

void start_profile() {
  t_profile.entries.clear();
  t_profile.on = true;
}

std::vector<ProfileEntry> finish_profile() {
  t_profile.on = false;
  std::vector<ProfileEntry> out;
  for (auto& [name, entry] : t_profile.entries) {
    entry.name = name;
    out.push_back(std::move(entry));
  }
  t_profile.entries.clear();
  std::ranges::stable_sort(out, std::ranges::greater{}, &ProfileEntry::seconds);
  return out;
}

Profiled::Profiled(const char* name) : name_(t_profile.on ? name : nullptr) {
  if (name_ == nullptr) return;
  outer_ = t_profile.innermost;
  t_profile.innermost = this;
  start_ = Clock::now();
}

Profiled::~Profiled() {
  if (name_ == nullptr) return;
  const double seconds = std::chrono::duration<double>(Clock::now() - start_).count();
  ProfileEntry& entry = t_profile.entries[name_];
  entry.seconds += seconds - inside_;
  entry.whole += seconds;
  ++entry.calls;
  if (outer_ != nullptr) outer_->inside_ += seconds;
  t_profile.innermost = outer_;
}

}  // namespace minke
