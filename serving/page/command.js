// A request -> the command line that sends it, for a POSIX shell and for cmd.exe.
// curl's own quotes, where its -F would take a name apart.
const part = name => /[;,"\\]/.test(name) ? `"${name.replaceAll(/["\\]/g, "\\$&")}"` : name;
const sh = text => `'${text.replaceAll("'", "'\\''")}'`;
const cmd = text => `"${text.replaceAll('"', '\\"')}"`;

// `name` is the file's, `withKey` whether the service asks for a key, which is not shown.
export function commands(url, name, withKey) {
  const image = "image=@" + part(name);
  return {
    curl: `curl ${withKey ? '-H "Authorization: Bearer $KEY" ' : ""}-F ${sh(image)} ${sh(url)}`,
    cmd: `curl ${withKey ? '-H "Authorization: Bearer %KEY%" ' : ""}-F ${cmd(image)} ${cmd(url)}`,
  };
}
