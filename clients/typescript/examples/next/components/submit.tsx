'use client';

import { useFormStatus } from 'react-dom';

/** Grey while its form is under way. That is a courtesy: what keeps a double click from paying twice is on the server. */
export function Submit({ children }: { children: React.ReactNode }) {
  const { pending } = useFormStatus();
  return <button disabled={pending}>{pending ? 'Un instant…' : children}</button>;
}
