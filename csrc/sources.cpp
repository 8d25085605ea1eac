// In a file of its own: it changes with every other file, and compiles in no time.
namespace irf {

extern const char* const kSources;
const char* const kSources = IRF_BUILD_SOURCES;

}  // namespace irf
