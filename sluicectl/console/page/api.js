// Asks the console's server, which asks the deployment.

/** Says in one sentence why something was not done. */
export class Refused extends Error {}

/** Returns the answer to a call, or throws `Refused`. */
export async function ask(name, given = {}, signal = undefined) {
  let response;
  try {
    response = await fetch(`/api/${name}`, {
      method: "POST",
      headers: { "content-type": "application/json", accept: "application/json" },
      body: JSON.stringify(given),
      signal,
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused("The console does not answer: sluicectl console has ended. Start it again.");
  }
  const answer = await response.json().catch(() => ({ error: `The console answered HTTP ${response.status}.` }));
  if (!response.ok) throw new Refused(answer.error);
  return answer;
}

/** Holds what does not change while the page is open: the deployment, and whether one may change it. */
export const about = { deployment: "", version: "", may_change: true };

/** Looks up what does not change. */
export const learn = async () => Object.assign(about, await ask("about"));
